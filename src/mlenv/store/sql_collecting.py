"""What rows name, for the collection of blobs that nothing names."""

import re
from collections.abc import Callable, Iterator
from typing import Final

from sqlalchemy import Table

from mlenv.core.collecting import Link, Named
from mlenv.core.digest import Digest
from mlenv.store import tables
from mlenv.store.database import Database, Row, Run
from mlenv.store.rows import to_time
from mlenv.store.statements_collecting import NAMING, key_of

_DIGEST: Final = re.compile(r"sha(?:256:[0-9a-f]{64}|512:[0-9a-f]{128})\b")
#: Rows read at once.
_PAGE: Final = 500


class SqlNames:
    """A `service.collecting.Names` over the rows of all namespaces."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def named(self) -> Named:
        """See `service.collecting.Names`."""

        def work(run: Run) -> Named:
            digests: set[Digest] = set()
            for table in NAMING:
                for row in _walk(run, table):
                    for value in row.values():
                        if isinstance(value, str):
                            digests.update(map(Digest.parse, _DIGEST.findall(value)))
            layers = {Digest.parse(row["key"]): Digest.parse(row["digest"]) for row in _walk(run, tables.layers)}
            links = tuple(
                Link(row["workspace"], row["repository"], Digest.parse(row["digest"]), to_time(row["created_at"]))
                for row in _walk(run, tables.repository_blobs)
            )
            return Named(frozenset(digests), layers, links)

        return self._database.read(work)

    def forget_layer(self, key: Digest) -> None:
        """See `service.collecting.Names`."""
        self._database.write(lambda run: run("delete_layer", key=str(key)))

    def forget_link(self, link: Link, unless: Callable[[], bool]) -> bool:
        """See `service.collecting.Names`."""
        key = {"workspace": link.workspace, "repository": link.repository, "digest": str(link.digest)}

        def work(run: Run) -> bool:
            # Who pushes a manifest that names the blob holds this row, and has marked the blob as used before.
            if not run("repository_blob_held", **key) or unless():
                return False
            run("delete_repository_blob", **key)
            return True

        return self._database.write(work)


def _walk(run: Run, table: Table) -> Iterator[Row]:
    """All rows of a table, page by page."""
    keys = key_of(table)
    after: dict[str, str | int] = dict.fromkeys((f"after_{key}" for key in keys), "")
    while page := run(f"walk_{table.name}", **after, limit=_PAGE):
        yield from page
        after = {f"after_{key}": page[-1][key] for key in keys}
