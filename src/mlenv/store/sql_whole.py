"""Walks over all rows that name bytes, and checks what the rows say of each other."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from mlenv.core.digest import Digest
from mlenv.core.reference import EnvironmentName, VersionName
from mlenv.core.spec import Spec
from mlenv.errors import MlenvError
from mlenv.store.database import Row, Run
from mlenv.store.sql_records import SqlRecords

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlenv.core.image import Descriptor
    from mlenv.core.layer import Layer
    from mlenv.core.platform import Platform
    from mlenv.core.records import ImageKey

#: Rows read at once, so that a walk holds neither all rows nor one long transaction.
_PAGE: Final = 500


class SqlWhole(SqlRecords):
    """The part of `SqlRegistry` that looks at everything."""

    def all_locks(self) -> Iterator[tuple[EnvironmentName, VersionName, Platform, Digest]]:
        """Every lock that is named."""
        from mlenv.core.platform import Platform

        for row in self._walk("all_locks", "name", "version", "platform"):
            name, version = EnvironmentName(row["name"]), VersionName(row["version"])
            yield name, version, Platform.parse(row["platform"]), Digest.parse(row["digest"])

    def all_images(self) -> Iterator[tuple[ImageKey, Descriptor]]:
        """Every image that is named."""
        from mlenv.core.layer import Compression
        from mlenv.core.records import ImageKey
        from mlenv.store.record_rows import to_descriptor

        for row in self._walk("all_images", "lock", "base", "spec", "compression"):
            lock, base, spec = (Digest.parse(row[column]) for column in ("lock", "base", "spec"))
            yield ImageKey(lock, base, spec, Compression(row["compression"])), to_descriptor(row)

    def all_layers(self) -> Iterator[tuple[Digest, Layer]]:
        """Every layer that is remembered, with its key."""
        from mlenv.store.record_rows import to_layer

        for row in self._walk("all_layers", "key", workspace=False):
            yield Digest.parse(row["key"]), to_layer(row)

    def check(self) -> list[str]:
        """What is wrong with the rows themselves, one sentence each; empty when all is well."""
        if damage := self._database.check():
            return damage
        found = [text for row in self._walk("all_versions", "name", "version") for text in _check_version(row)]
        for row in self._walk("all_environments", "name"):
            found += self._database.read(self._environment_check(row["name"]))
        return found

    def _environment_check(self, name: str) -> Callable[[Run], list[str]]:
        """Whether what is kept about all versions agrees with them, in one state of the database."""

        def work(run: Run) -> list[str]:
            key = {"workspace": self._workspace, "name": name}
            kept = run("environment", **key)[0]["latest_version"]
            newest = run("newest_versions", **key, limit=1)
            actual = newest[0]["version"] if newest else None
            return [] if kept == actual else [f"environment {name}: latest is recorded as {kept}, and is {actual}"]

        return work

    def _walk(self, statement: str, *keys: str, workspace: bool = True) -> Iterator[Row]:
        """All rows in the order of `keys`, page by page."""
        scope = {"workspace": self._workspace} if workspace else {}
        after = dict.fromkeys((f"after_{key}" for key in keys), "")
        while page := self._database.read(lambda run, after=after: run(statement, **scope, **after, limit=_PAGE)):  # type: ignore[misc]
            yield from page
            after = {f"after_{key}": page[-1][key] for key in keys}


def _check_version(row: Row) -> Iterator[str]:
    what = f"{row['name']}:{row['version']}"
    if str(Digest.of(row["document"].encode())) != row["document_digest"]:
        yield f"{what}: its stored spec does not have the digest it is stored under"
    try:
        actual = str(Spec.from_dict(json.loads(row["document"])).digest)
    except (ValueError, KeyError, TypeError, AttributeError, MlenvError) as error:
        yield f"{what}: its stored spec can't be read: {error!r}"
        return
    if actual != row["spec_digest"]:
        yield f"{what}: its spec has the digest {actual}, recorded is {row['spec_digest']}"
