"""
The tables, as SQLAlchemy Core knows them. Only text and integers, so that every database means the same by them.

Times are UTC in RFC 3339 with microseconds, all of one length, so that they sort as text. JSON is text. Yes and no are
1 and 0. Rows that belong to a team carry its workspace; layers and facts are named by their content and belong to all.
"""

from typing import Final

from sqlalchemy import BigInteger, Column, ForeignKeyConstraint, Index, Integer, MetaData, Table, Text

metadata: Final = MetaData()

#: Text that sorts by code point everywhere; PostgreSQL would otherwise sort by the database's language.
_SORTED = Text().with_variant(Text(collation="C"), "postgresql")


def _key(name: str) -> Column[str]:
    return Column(name, _SORTED, primary_key=True)


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False)


environments: Final = Table(
    "environments",
    metadata,
    _key("workspace"),
    _key("name"),
    Column("archived", Integer, nullable=False),
    # What is computed from the versions is kept here, so that its cost does not grow with them.
    Column("latest_version", Text),
    _text("next_version"),
    Column("last_sequence", BigInteger, nullable=False),
    _text("created_at"),
    _text("modified_at"),
)

specs: Final = Table("specs", metadata, _key("workspace"), _key("document_digest"), _text("document"))

versions: Final = Table(
    "versions",
    metadata,
    _key("workspace"),
    _key("name"),
    _key("version"),
    # 1 for the version of this environment that was created first. Clocks may jump; this does not.
    Column("sequence", BigInteger, nullable=False),
    _text("spec_digest"),
    Column("document_digest", _SORTED, nullable=False),
    Column("description", Text),
    _text("tags"),
    Column("archived", Integer, nullable=False),
    _text("created_at"),
    _text("modified_at"),
    ForeignKeyConstraint(["workspace", "name"], ["environments.workspace", "environments.name"]),
    ForeignKeyConstraint(["workspace", "document_digest"], ["specs.workspace", "specs.document_digest"]),
    Index("versions_by_sequence", "workspace", "name", "sequence", unique=True),
)


def _of_version() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(
        ["workspace", "name", "version"], ["versions.workspace", "versions.name", "versions.version"]
    )


labels: Final = Table(
    "labels",
    metadata,
    _key("workspace"),
    _key("name"),
    _key("label"),
    # Every place a label ever pointed to stays; the highest number is where it points now.
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("version", _SORTED, nullable=False),
    _text("set_at"),
    _of_version(),
)

locks: Final = Table(
    "locks",
    metadata,
    _key("workspace"),
    _key("name"),
    _key("version"),
    _key("platform"),
    _text("digest"),
    _text("created_at"),
    _of_version(),
)

layers: Final = Table(
    "layers",
    metadata,
    _key("key"),
    _text("digest"),
    _text("diff_id"),
    Column("size", BigInteger, nullable=False),
    _text("media_type"),
)

images: Final = Table(
    "images",
    metadata,
    _key("workspace"),
    _key("lock"),
    _key("base"),
    _key("spec"),
    _key("compression"),
    _text("descriptor"),
    _text("created_at"),
)

bases: Final = Table(
    "bases", metadata, _key("workspace"), _key("name"), _text("digest"), _text("modified_at")
)  # fmt: skip

facts: Final = Table("facts", metadata, _key("digest"), _text("document"))

builds: Final = Table(
    "builds",
    metadata,
    _key("workspace"),
    _key("id"),
    Column("name", _SORTED, nullable=False),
    Column("version", _SORTED, nullable=False),
    _text("platform"),
    _text("status"),
    _text("started_at"),
    Column("ended_at", Text),
    Column("image", Text),
    Column("error", Text),
    _text("steps"),
    _of_version(),
    Index("builds_by_version", "workspace", "name", "version", "started_at"),
)

uses: Final = Table(
    "uses",
    metadata,
    _key("workspace"),
    _key("id"),
    Column("name", _SORTED, nullable=False),
    Column("version", _SORTED, nullable=False),
    _text("kind"),
    _text("engine"),
    _text("lock"),
    _text("command"),
    _text("user"),
    _text("host"),
    _text("started_at"),
    Column("image", Text),
    Column("exit_code", Integer),
    Column("ended_at", Text),
    _of_version(),
    Index("uses_by_version", "workspace", "name", "version", "started_at"),
    Index("uses_by_name", "workspace", "name", "started_at"),
)
