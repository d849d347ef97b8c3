"""
Files by name in SQL, of one namespace. Each method is one transaction.

Besides files, their table holds what is sealed (a row whose path ends in `/`, without a digest), and blocks of files
that are not whole yet (in a container of their own, whose name no client can give).
"""

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final

from mlenv.core.audit import Author, Change
from mlenv.core.digest import Digest
from mlenv.core.files import FileSealed, StoredFile
from mlenv.core.spec import canonical_json
from mlenv.store import rows
from mlenv.store.audit import append, require_author
from mlenv.store.database import Database, Row, Run

#: Sorts after every other character.
_LAST: Final = "\U0010ffff"
#: How deep a directory can be that is sealed.
_DEPTH: Final = 8


class SqlFiles:
    """
    A `service.files.FileStore` over a database.

    Args:
        workspace: Whose files they are; those of others are not seen.
        author: Who changes them, for the audit. Without one nothing can be changed.
    """

    def __init__(self, database: Database, workspace: str, *, author: Author | None = None) -> None:
        self._database, self._workspace, self._author = database, workspace, author

    def file(self, container: str, path: str) -> StoredFile | None:
        """See `service.files.FileStore`."""
        found = self._database.read(lambda run: run("file", **self._key(container, path)))
        return _file(found[0]) if found and found[0]["digest"] else None

    def page(self, container: str, prefix: str, *, after: str | None, limit: int) -> list[StoredFile]:
        """See `service.files.FileStore`."""
        found = self._database.read(
            lambda run: run(
                "files",
                workspace=self._workspace,
                container=container,
                first=prefix,
                end=prefix + _LAST,
                after=after or "",
                limit=limit,
            )
        )
        return [_file(row) for row in found]

    def put(self, file: StoredFile, *, replace: bool) -> bool:
        """See `service.files.FileStore`. Raises `FileSealed`."""
        author = require_author(self._author)

        def work(run: Run) -> bool:
            found = run("file_to_change", **self._key(file.container, file.path))
            if found and not replace:
                return False
            if not found or found[0]["digest"] != str(file.digest):
                self._check_seals(run, file.container, file.path)
            row = self._row(file)
            if not found:
                run("insert_file", **row)
            else:
                row["created_at"] = found[0]["created_at"]
                self._update(run, row)
            before = {"digest": found[0]["digest"]} if found else None
            after = {"digest": str(file.digest), "size": file.size}
            change = Change("file.put", f"{file.container}/{file.path}", before, after)
            append(run, author, self._workspace, change, file.modified_at)
            return True

        return self._database.write(work)

    def set_metadata(
        self, container: str, path: str, metadata: Mapping[str, str], *, now: datetime
    ) -> StoredFile | None:
        """See `service.files.FileStore`."""
        author = require_author(self._author)

        def work(run: Run) -> StoredFile | None:
            found = run("file_to_change", **self._key(container, path))
            if not found or not found[0]["digest"]:
                return None
            row = found[0]
            before = json.loads(row["metadata"])
            row |= {"metadata": canonical_json(dict(metadata)), "modified_at": rows.from_time(now)}
            self._update(run, row)
            change = Change("file.metadata", f"{container}/{path}", before, dict(metadata))
            append(run, author, self._workspace, change, now)
            return _file(row)

        return self._database.write(work)

    def copy(self, files: Iterable[StoredFile], *, now: datetime) -> None:
        """See `service.files.FileStore`."""
        author, all_files = require_author(self._author), list(files)

        def work(run: Run) -> None:
            new = [each for each in all_files if not run("file", **self._key(each.container, each.path))]
            for file in new:
                run("insert_file", **self._row(file))
            if new:
                subject = f"{new[0].container}/{new[0].path}"
                append(run, author, self._workspace, Change("file.copy", subject, None, {"files": len(new)}), now)

        self._database.write(work)

    def seal(self, container: str, directory: str, *, now: datetime) -> None:
        """See `service.files.FileStore`."""
        author = require_author(self._author)

        def work(run: Run) -> None:
            key = self._key(container, directory)
            if run("file", **key) or directory.count("/") > _DEPTH:
                return
            time = rows.from_time(now)
            run("insert_file", **key, digest="", size=0, metadata="{}", created_at=time, modified_at=time)
            append(run, author, self._workspace, Change("file.seal", f"{container}/{directory}"), now)

        self._database.write(work)

    def put_block(self, container: str, path: str, block: str, digest: Digest, size: int, *, now: datetime) -> None:
        """See `service.files.FileStore`. Blocks are nothing yet, so the audit has none of them."""
        require_author(self._author)
        row = self._row(StoredFile(_waiting(container), _block(path, block), digest, size, now, now))

        def work(run: Run) -> None:
            if run("file_to_change", **self._key(row["container"], row["path"])):
                self._update(run, row)
            else:
                run("insert_file", **row)

        self._database.write(work)

    def blocks(self, container: str, path: str) -> dict[str, tuple[Digest, int]]:
        """See `service.files.FileStore`."""
        known: dict[str, tuple[Digest, int]] = {}
        first, after = _block(path, ""), None
        while page := self.page(_waiting(container), first, after=after, limit=1000):
            known |= {each.path.removeprefix(first): (each.digest, each.size) for each in page}
            after = page[-1].path
        return known

    def forget_blocks(self, container: str, path: str | None, *, before: datetime) -> None:
        """See `service.files.FileStore`."""
        require_author(self._author)
        first = "" if path is None else _block(path, "")
        parameters = {"workspace": self._workspace, "container": _waiting(container), "first": first}
        time = rows.from_time(before)
        self._database.write(lambda run: run("delete_old_files", **parameters, end=first + _LAST, before=time))

    # Steps of the transactions above.

    def _check_seals(self, run: Run, container: str, path: str) -> None:
        parts = path.split("/")[:-1][:_DEPTH]
        for depth in range(1, len(parts) + 1):
            if run("file", **self._key(container, "/".join(parts[:depth]) + "/")):
                raise FileSealed(container, path)

    def _update(self, run: Run, row: Row) -> None:
        key = {f"the_{column}": row[column] for column in ("workspace", "container", "path")}
        changing = ("digest", "size", "metadata", "created_at", "modified_at")
        run("update_file", **key, **{column: row[column] for column in changing})

    def _key(self, container: str, path: str) -> dict[str, str]:
        return {"workspace": self._workspace, "container": container, "path": path}

    def _row(self, file: StoredFile) -> Row:
        return {
            **self._key(file.container, file.path),
            "digest": str(file.digest),
            "size": file.size,
            "metadata": canonical_json(dict(file.metadata)),
            "created_at": rows.from_time(file.created_at),
            "modified_at": rows.from_time(file.modified_at),
        }


def _waiting(container: str) -> str:
    return f"{container}#blocks"


def _block(path: str, block: str) -> str:
    return f"{path}\n{block}"


def _file(row: Row) -> StoredFile:
    return StoredFile(
        container=row["container"],
        path=row["path"],
        digest=Digest.parse(row["digest"]),
        size=row["size"],
        created_at=rows.to_time(row["created_at"]),
        modified_at=rows.to_time(row["modified_at"]),
        metadata=json.loads(row["metadata"]),
    )
