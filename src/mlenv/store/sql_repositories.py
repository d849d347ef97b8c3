"""Repositories of images in SQL, of one namespace. Each method is one transaction."""

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final

from mlenv.core.audit import Author, Change
from mlenv.core.digest import Digest
from mlenv.core.manifests import Part
from mlenv.core.repositories import (
    InvalidManifest,
    PartsMissing,
    RepositoryName,
    StoredManifest,
    Tag,
    order_of_tag,
)
from mlenv.core.spec import canonical_json
from mlenv.store import rows
from mlenv.store.audit import append, require_author
from mlenv.store.database import Database, Row, Run

#: Manifests that are read at once.
_PAGE: Final = 500


class SqlRepositories:
    """
    A `service.repositories.RepositoryStore` over a database.

    Args:
        workspace: Whose repositories they are; those of others are not seen.
        author: Who changes them, for the audit. Without one nothing can be changed.
    """

    def __init__(self, database: Database, workspace: str, *, author: Author | None = None) -> None:
        self._database, self._workspace, self._author = database, workspace, author

    # Blobs.

    def blob(self, repository: RepositoryName, digest: Digest) -> int | None:
        """See `service.repositories.RepositoryStore`."""
        found = self._database.ask("repository_blob", **self._key(repository, digest))
        return int(found[0]["size"]) if found else None

    def add_blob(self, repository: RepositoryName, digest: Digest, size: int, *, now: datetime) -> None:
        """See `service.repositories.RepositoryStore`. Blobs are nothing by themselves, so the audit has none of them."""
        require_author(self._author)
        key = self._key(repository, digest)

        def work(run: Run) -> None:
            if not run("repository_blob", **key):
                run("insert_repository_blob", **key, size=size, created_at=rows.from_time(now))

        self._database.write(work)

    def remove_blob(self, repository: RepositoryName, digest: Digest, *, now: datetime) -> bool:
        """See `service.repositories.RepositoryStore`."""
        author = require_author(self._author)
        key = self._key(repository, digest)

        def work(run: Run) -> bool:
            if not (found := run("repository_blob_held", **key)):
                return False
            run("delete_repository_blob", **key)
            before = {"size": found[0]["size"]}
            append(run, author, self._workspace, Change("blob.delete", f"{repository}@{digest}", before), now)
            return True

        return self._database.write(work)

    def having(self, digest: Digest) -> list[str]:
        """See `service.repositories.RepositoryStore`."""
        return [row["workspace"] for row in self._database.ask("repository_blob_anywhere", digest=str(digest))]

    # Manifests.

    def manifest(self, repository: RepositoryName, reference: Digest | Tag) -> StoredManifest | None:
        """See `service.repositories.RepositoryStore`."""
        if isinstance(reference, Digest):
            found = self._database.ask("manifest", **self._key(repository, reference))
        else:
            found = self._database.read(lambda run: self._tagged(run, repository, reference))
        return _manifest(found[0]) if found else None

    def put_manifest(
        self,
        repository: RepositoryName,
        manifest: StoredManifest,
        parts: Iterable[Part],
        tags: Sequence[Tag] = (),
        *,
        now: datetime,
    ) -> None:
        """See `service.repositories.RepositoryStore`. Raises `PartsMissing`, `InvalidManifest`."""
        author = require_author(self._author)
        key, all_parts = self._key(repository, manifest.digest), list(parts)

        def work(run: Run) -> None:
            self._check_parts(run, repository, all_parts)
            changes = []
            if not run("manifest", **key):
                run("insert_manifest", **key, **_content(manifest))
                after = {"media_type": manifest.media_type, "size": manifest.size, "subject": _text(manifest.subject)}
                changes.append(Change("manifest.create", f"{repository}@{manifest.digest}", None, after))
            changes += [change for tag in tags if (change := self._set_tag(run, repository, tag, manifest.digest, now))]
            for change in changes:
                append(run, author, self._workspace, change, now)

        self._database.write(work)

    def add_composed(self, repository: RepositoryName, manifest: StoredManifest) -> None:
        """See `service.repositories.RepositoryStore`. Nobody asked for it, so the audit does not have it."""
        key = self._key(repository, manifest.digest)

        def work(run: Run) -> None:
            if not run("manifest", **key):
                run("insert_manifest", **key, **_content(manifest))

        self._database.write(work)

    def remove_manifest(self, repository: RepositoryName, digest: Digest, *, now: datetime) -> bool:
        """See `service.repositories.RepositoryStore`."""
        author = require_author(self._author)
        key = self._key(repository, digest)

        def work(run: Run) -> bool:
            if not (found := run("manifest", **key)):
                return False
            tags = [row["tag"] for row in run("tags_of_manifest", **key)]
            run("delete_tags_of_manifest", **key)
            run("delete_manifest", **key)
            before = {"media_type": found[0]["media_type"], "tags": tags}
            append(run, author, self._workspace, Change("manifest.delete", f"{repository}@{digest}", before), now)
            return True

        return self._database.write(work)

    def referrers(
        self, repository: RepositoryName, subject: Digest, artifact_type: str | None, *, after: str, limit: int
    ) -> list[StoredManifest]:
        """See `service.repositories.RepositoryStore`."""
        parameters: dict[str, str | int] = {"subject": str(subject), "after": after, "limit": limit}
        if artifact_type is None:
            found = self._database.ask("referrers", **self._where(repository), **parameters)
        else:
            parameters["artifact_type"] = artifact_type
            found = self._database.ask("referrers_of_type", **self._where(repository), **parameters)
        return [_manifest(row) for row in found]

    # Tags and names.

    def tags(self, repository: RepositoryName, *, after: str | None, limit: int) -> list[Tag]:
        """See `service.repositories.RepositoryStore`."""
        folded, tag = order_of_tag(after or "")
        found = self._database.ask(
            "repository_tags", **self._where(repository), after_folded=folded, after_tag=tag, limit=limit
        )
        return [Tag(row["tag"]) for row in found]

    def remove_tag(self, repository: RepositoryName, tag: Tag, *, now: datetime) -> bool:
        """See `service.repositories.RepositoryStore`."""
        author = require_author(self._author)

        def work(run: Run) -> bool:
            if not (found := run("repository_tag_to_change", **self._where(repository), tag=tag)):
                return False
            run("delete_repository_tag", **self._where(repository), tag=tag)
            before = {"digest": found[0]["digest"]}
            append(run, author, self._workspace, Change("tag.delete", f"{repository}:{tag}", before), now)
            return True

        return self._database.write(work)

    def is_known(self, repository: RepositoryName) -> bool:
        """See `service.repositories.RepositoryStore`."""

        def work(run: Run) -> bool:
            where = self._where(repository)
            return bool(run("any_manifest", **where) or run("any_repository_blob", **where))

        return self._database.read(work)

    def names(self, *, after: str, limit: int) -> list[RepositoryName]:
        """See `service.repositories.RepositoryStore`."""

        def work(run: Run) -> list[RepositoryName]:
            found: list[RepositoryName] = []
            last = after
            while len(found) < limit:
                (row,) = run("next_repository", workspace=self._workspace, after=last)
                if row["repository"] is None:
                    break
                last = row["repository"]
                found.append(RepositoryName(last))
            return found

        return self._database.read(work)

    # Steps of the transactions above.

    def _tagged(self, run: Run, repository: RepositoryName, tag: Tag) -> list[Row]:
        found = run("repository_tag", **self._where(repository), tag=tag)
        return run("manifest", **self._where(repository), digest=found[0]["digest"]) if found else []

    def _check_parts(self, run: Run, repository: RepositoryName, parts: Sequence[Part]) -> None:
        """See that all is there that a manifest names, and has the size that it says."""
        held: dict[Digest, int | None] = {}
        # In one order, so that two that push the same do not wait for each other.
        for digest in sorted({part.digest for part in parts}):
            key = self._key(repository, digest)
            found = run("repository_blob_held", **key) or run("manifest", **key)
            held[digest] = found[0]["size"] if found else None
        missing = [part.digest for part in parts if held[part.digest] is None and not part.optional]
        if missing:
            raise PartsMissing(repository, missing)
        for part in parts:
            if (size := held[part.digest]) is not None and size != part.size:
                raise InvalidManifest(f"says that {part.digest} has {part.size} bytes; it has {size}")

    def _set_tag(self, run: Run, repository: RepositoryName, tag: Tag, digest: Digest, now: datetime) -> Change | None:
        where, time = self._where(repository), rows.from_time(now)
        found = run("repository_tag_to_change", **where, tag=tag)
        before = {"digest": found[0]["digest"]} if found else None
        after = {"digest": str(digest)}
        if before == after:
            return None
        if found:
            key = {"the_workspace": self._workspace, "the_repository": repository, "the_tag": tag}
            run("update_repository_tag", **key, **after, modified_at=time)
        else:
            run("insert_repository_tag", **where, tag=tag, folded=order_of_tag(tag)[0], **after, modified_at=time)
        return Change("tag.set", f"{repository}:{tag}", before, after)

    def _where(self, repository: RepositoryName) -> dict[str, str]:
        return {"workspace": self._workspace, "repository": repository}

    def _key(self, repository: RepositoryName, digest: Digest) -> dict[str, str]:
        return {**self._where(repository), "digest": str(digest)}


def _content(manifest: StoredManifest) -> dict[str, Any]:
    return {
        "media_type": manifest.media_type,
        "size": manifest.size,
        "subject": _text(manifest.subject),
        "artifact_type": manifest.artifact_type,
        "annotations": canonical_json(dict(manifest.annotations)) if manifest.annotations else None,
        "created_at": rows.from_time(manifest.created_at),
    }


def _manifest(row: Row) -> StoredManifest:
    return StoredManifest(
        Digest.parse(row["digest"]),
        row["media_type"],
        row["size"],
        rows.to_time(row["created_at"]),
        Digest.parse(row["subject"]) if row["subject"] else None,
        row["artifact_type"],
        json.loads(row["annotations"] or "{}"),
    )


def _text(digest: Digest | None) -> str | None:
    return None if digest is None else str(digest)
