"""Every statement that a server makes, by name, and its text for SQLite and for PostgreSQL."""

from typing import Final

from mlenv.store import (
    statements,
    statements_assets,
    statements_builds,
    statements_collecting,
    statements_files,
    statements_repositories,
    statements_site,
)

STATEMENTS: Final = {
    **statements.STATEMENTS,
    **statements_site.STATEMENTS,
    **statements_builds.STATEMENTS,
    **statements_assets.STATEMENTS,
    **statements_files.STATEMENTS,
    **statements_repositories.STATEMENTS,
    **statements_collecting.STATEMENTS,
}


class SqliteTexts(dict[str, str]):
    """The statements' text for SQLite by name, each made when it is first needed."""

    def __missing__(self, name: str) -> str:
        text = self[name] = statements.sqlite_text(STATEMENTS[name])
        return text


class PostgresqlTexts(dict[str, str]):
    """The same for PostgreSQL's driver."""

    def __missing__(self, name: str) -> str:
        text = self[name] = statements.postgresql_text(STATEMENTS[name])
        return text
