"""Queued builds in SQL, and the workers that make them."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from mlenv.core.audit import Author, Change
from mlenv.core.records import BuildRecord, BuildStatus
from mlenv.core.reference import EnvironmentName, VersionName
from mlenv.core.refusals import EnvironmentNotFound, VersionNotFound
from mlenv.store import record_rows, rows
from mlenv.store.audit import append, require_author
from mlenv.store.database import Database, Row, Run

#: After every time that is written: where the first page begins.
_END_OF_TIME: Final = datetime(9999, 12, 31, tzinfo=UTC)
_CHANGING: Final = ("status", "started_at", "ended_at", "image", "error", "steps", "attempts", "log")


class SqlBuilds:
    """
    A `service.builds.BuildStore` over a database.

    Args:
        workspace: Whose builds they are; those of others are not seen.
        author: Who changes them, for the audit. Without one nothing can be changed.
    """

    def __init__(self, database: Database, workspace: str, *, author: Author | None = None) -> None:
        self._database = database
        self._workspace = workspace
        self._author = author

    def request(self, build: BuildRecord) -> tuple[BuildRecord, bool]:
        """See `service.builds.BuildStore`."""
        author = require_author(self._author)
        row = {"workspace": self._workspace, **record_rows.from_build(build)}
        same = {key: row[key] for key in ("workspace", "name", "version", "platform", "compression")}

        def work(run: Run) -> tuple[BuildRecord, bool]:
            # The environment is held, so that two who ask at once come one after the other.
            if not run("environment_to_change", workspace=self._workspace, name=build.name):
                raise EnvironmentNotFound(build.name, [])
            if not run("version_sequence", workspace=self._workspace, name=build.name, version=build.version):
                raise VersionNotFound(build.name, build.version, [])
            found = run("build_at_work", **same)
            if not found and build.image is not None:
                found = run("build_of_image", **same, status=build.status.value, image=str(build.image))
            if found:
                return record_rows.to_build(found[0]), False
            run("insert_build", **row)
            self._audit(run, author, "build.request", None, build, build.queued_at or build.started_at)
            return build, True

        return self._database.write(work)

    def build(self, id: str) -> BuildRecord | None:
        """One build, or None."""
        found = self._database.read(lambda run: run("build", workspace=self._workspace, id=id))
        return record_rows.to_build(found[0]) if found else None

    def page(
        self,
        *,
        limit: int,
        after: tuple[datetime, str] | None = None,
        status: BuildStatus | None = None,
        of: tuple[EnvironmentName, VersionName] | None = None,
    ) -> list[BuildRecord]:
        """Builds, the newest first; see `service.builds.BuildStore`."""
        before, before_id = after or (_END_OF_TIME, "")
        parameters: dict[str, str | int] = {
            "workspace": self._workspace,
            "before": rows.from_time(before),
            "before_id": before_id,
            "limit": limit,
        }
        statement = "build_page"
        if of is not None:
            statement += "_of_version"
            parameters |= {"name": of[0], "version": of[1]}
        if status is not None:
            statement += "_by_status"
            parameters["status"] = status.value
        return [record_rows.to_build(row) for row in self._database.read(lambda run: run(statement, **parameters))]

    def change(
        self, id: str, edit: Callable[[BuildRecord], BuildRecord | None], *, audit: str | None = None
    ) -> BuildRecord | None:
        """See `service.builds.BuildStore`."""
        author = require_author(self._author)

        def work(run: Run) -> BuildRecord | None:
            found = run("build_to_change", workspace=self._workspace, id=id)
            if not found:
                return None
            stored = record_rows.to_build(found[0])
            changed = edit(stored)
            if changed is None or changed == stored:
                return stored
            row = record_rows.from_build(changed)
            key = {"the_workspace": self._workspace, "the_id": id}
            run("update_build", **key, **{column: row[column] for column in _CHANGING})
            if audit is not None:
                self._audit(run, author, audit, stored, changed, changed.ended_at or changed.started_at)
            return changed

        return self._database.write(work)

    def _audit(
        self, run: Run, author: Author, action: str, before: BuildRecord | None, after: BuildRecord, now: datetime
    ) -> None:
        subject = f"{after.name}:{after.version}"
        append(run, author, self._workspace, Change(action, subject, _state(before), _state(after)), now)


class SqlWorkers:
    """A `work.queue.WorkerRows` over a database: who works, and what should be at work, in all namespaces."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def join(self, id: str, host: str, *, now: datetime) -> None:
        """A worker begins."""
        self._database.write(lambda run: run("insert_worker", id=id, host=host, beat=0, started_at=rows.from_time(now)))

    def beat(self, id: str, beat: int) -> bool:
        """A worker lives. False if others have taken it for dead."""

        def work(run: Run) -> bool:
            if not run("worker", id=id):
                return False
            run("beat", the_id=id, beat=beat)
            return True

        return self._database.write(work)

    def beats(self) -> dict[str, int]:
        """Every worker's number, which grows while it lives."""
        return {row["id"]: row["beat"] for row in self._database.read(lambda run: run("workers"))}

    def leave(self, id: str) -> None:
        """A worker is gone."""
        self._database.write(lambda run: run("delete_worker", id=id))

    def waiting(self, *, before: datetime, limit: int) -> list[tuple[str, str, int, int]]:
        """Scope, id, attempts and priority of builds that were queued before a time and have not ended."""
        found = self._database.read(lambda run: run("builds_at_work", before=rows.from_time(before), limit=limit))
        return [(row["workspace"], row["id"], row["attempts"] or 0, row["priority"]) for row in found]

    def states(self) -> dict[str, int]:
        """How many builds are queued, and how many run."""
        found: list[Row] = self._database.read(lambda run: run("build_states"))
        return {row["status"]: row["count"] for row in found}


def _state(build: BuildRecord | None) -> dict[str, Any] | None:
    if build is None:
        return None
    return {
        "id": build.id,
        "platform": str(build.platform),
        "compression": build.compression.value if build.compression else None,
        "status": build.status.value,
        "priority": build.priority,
    }
