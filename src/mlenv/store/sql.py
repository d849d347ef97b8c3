"""The registry in SQL. Each method is one transaction; the statements are in `mlenv.store.statements`."""

import json
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from mlenv.core.digest import Digest
from mlenv.core.environment import Definition, Environment, EnvironmentVersion, LabelChange, View
from mlenv.core.reference import LATEST, EnvironmentName, LabelName, VersionName, parse_version
from mlenv.core.refusals import (
    ComputedLabel,
    EnvironmentArchived,
    EnvironmentNotFound,
    VersionChanged,
    VersionConflict,
    VersionNotFound,
)
from mlenv.core.spec import WrittenSpec
from mlenv.core.versions import FIRST_VERSION, next_after
from mlenv.faults import reach
from mlenv.store import rows
from mlenv.store.database import Database, Row, Run
from mlenv.store.sql_whole import SqlWhole

if TYPE_CHECKING:
    from mlenv.core.audit import Author

#: How many names are looked through for a near one: all if there are no more, and otherwise so many of each beginning.
_NAMES: Final = 200
#: How many versions a message is offered.
_NEWEST: Final = 5
#: Above every sequence number: SQLite's and PostgreSQL's largest integer.
_TOP: Final = 2**63 - 1
#: The value of the archived column; nothing if that does not matter.
_ARCHIVED: Final[dict[View, dict[str, int]]] = {
    View.ACTIVE: {"archived": 0},
    View.ARCHIVED: {"archived": 1},
    View.ALL: {},
}


class SqlRegistry(SqlWhole):
    """
    A `service.interface.Registry` over a database.

    Args:
        database: Where the rows are.
        workspace: Whose rows they are; rows of others are not seen.
        author: Who makes changes, for the audit.
        audited: Whether every change leaves an audit record, and nothing can be changed without an author
            (`NoAuthor`), as on a server. What the server itself notes of its work is excepted: builds, uses, images,
            layers and facts.
    """

    def __init__(
        self,
        database: Database,
        workspace: str = "default",
        *,
        author: "Author | None" = None,
        audited: bool = False,
    ) -> None:
        super().__init__(database, workspace, author=author, audited=audited)

    def add_version(self, definition: Definition, *, now: datetime) -> tuple[EnvironmentVersion, bool]:
        """Register a definition; see `service.interface.Registry`."""
        self._check_author()
        # Before the transaction, so that nobody waits for it meanwhile.
        written = WrittenSpec.of(definition.spec)
        answer = self._database.write_together(
            lambda run: self._add(run, definition, written, now), key=f"{self._workspace}/{definition.name}"
        )
        reach("version.committed")
        return answer

    def version(self, name: EnvironmentName, version: VersionName) -> EnvironmentVersion:
        """One version. Raises `EnvironmentNotFound`, `VersionNotFound`."""

        row = self._one("shown_version", workspace=self._workspace, name=name, version=version)
        if row is not None:
            return rows.to_version(row, archived=bool(row["environment_archived"]))

        def work(run: Run) -> EnvironmentVersion:
            environment = self._environment(run, name)
            return rows.to_version(self._version(run, name, version), archived=bool(environment["archived"]))

        return self._database.read(work)

    def environment(self, name: EnvironmentName) -> Environment:
        """One environment. Raises `EnvironmentNotFound`."""
        if row := self._one("environment_labeled", workspace=self._workspace, name=name):
            return rows.to_environments([row])[0]
        raise self._database.read(lambda run: EnvironmentNotFound(name, self._names_like(run, name)))

    def environments(self, view: View, *, limit: int, after: str | None = None) -> list[Environment]:
        """Environments by name."""
        archived = _ARCHIVED[view]
        statement = "environments_archived" if archived else "environments"
        page = self._database.ask(statement, workspace=self._workspace, after=after or "", limit=limit, **archived)
        return rows.to_environments(page)

    def versions(
        self, name: EnvironmentName, view: View, *, limit: int, after: str | None = None
    ) -> list[EnvironmentVersion]:
        """Versions of one environment, the newest first. Raises `EnvironmentNotFound`."""
        # One statement gives the first page of an environment that is there, has such versions, and is not archived.
        if after is None:
            page = self._versions(self._database.ask, name, view, before=_TOP, limit=limit)
            if page and not page[0]["environment_archived"]:
                return [rows.to_version(row, archived=False) for row in page]

        def work(run: Run) -> list[EnvironmentVersion]:
            archived = bool(self._environment(run, name)["archived"])
            if archived and view is View.ACTIVE:
                return []
            before = _TOP if after is None else self._sequence(run, name, VersionName(after))
            page = self._versions(run, name, View.ALL if archived else view, before=before, limit=limit)
            return [rows.to_version(row, archived=archived) for row in page]

        return self._database.read(work)

    def _versions(self, run: Run, name: EnvironmentName, view: View, *, before: int, limit: int) -> list[Row]:
        """A page of versions by what is archived of them, whatever their environment is."""
        wanted = _ARCHIVED[view]
        statement = "versions_archived" if wanted else "versions"
        return run(statement, workspace=self._workspace, name=name, before=before, limit=limit, **wanted)

    def update_version(
        self,
        name: EnvironmentName,
        version: VersionName,
        *,
        now: datetime,
        description: str | None,
        tags: Mapping[str, str],
        archived: bool | None = None,
        unless_modified_after: datetime | None = None,
    ) -> EnvironmentVersion:
        """Set what may change; see `service.interface.Registry`."""
        self._check_author()

        def work(run: Run) -> EnvironmentVersion:
            environment = self._environment(run, name, change=True)
            row = self._version(run, name, version)
            if unless_modified_after is not None and rows.to_time(row["modified_at"]) > unless_modified_after:
                raise VersionChanged(name, version)
            if archived is False and environment["archived"]:
                raise EnvironmentArchived(name, version)
            flag = row["archived"] if archived is None else int(archived)
            new = {"description": description, "tags": rows.from_tags(tags), "archived": flag}
            return self._change(run, environment, row, now=now, new=new)

        return self._database.write(work)

    def set_archived(
        self,
        name: EnvironmentName,
        archived: bool,
        *,
        now: datetime,
        check: Callable[[Environment], None] | None = None,
    ) -> Environment:
        """Archive or restore an environment with all its versions; see `service.interface.Registry`."""
        self._check_author()

        def work(run: Run) -> Environment:
            row = self._environment(run, name, change=True)
            if check is not None:
                check(self._labeled(run, name))
            if bool(row["archived"]) != archived:
                self._change_environment(run, row, archived=int(archived), modified_at=_later(now, row["modified_at"]))
                self._audit_environment(run, name, archived, now)
            return self._labeled(run, name)

        return self._database.write(work)

    def set_label(self, name: EnvironmentName, label: LabelName, version: VersionName, *, now: datetime) -> None:
        """Point a label at a version, keeping its history. Raises `VersionNotFound`, `ComputedLabel`."""
        self._check_author()
        if label == LATEST:
            raise ComputedLabel

        def work(run: Run) -> None:
            self._environment(run, name, change=True)
            self._sequence(run, name, version)
            key = {"workspace": self._workspace, "name": name, "label": label}
            history = run("label_history", **key)
            if history and history[0]["version"] == version:
                return
            number = history[0]["sequence"] + 1 if history else 1
            run("insert_label", **key, sequence=number, version=version, set_at=rows.from_time(now))
            before = {"version": history[0]["version"]} if history else None
            self._audit(run, "label.set", f"{name}@{label}", before, {"version": version}, now)

        self._database.write(work)

    def label_history(self, name: EnvironmentName, label: LabelName) -> list[LabelChange]:
        """Where a label pointed, the newest first; empty if it was never set. Raises `EnvironmentNotFound`."""

        def work(run: Run) -> list[LabelChange]:
            self._environment(run, name)
            found = run("label_history", workspace=self._workspace, name=name, label=label)
            return [LabelChange(label, VersionName(row["version"]), rows.to_time(row["set_at"])) for row in found]

        return self._database.read(work)

    # Steps of the transactions above.

    def _add(
        self, run: Run, definition: Definition, written: WrittenSpec, now: datetime
    ) -> tuple[EnvironmentVersion, bool]:
        name = definition.name
        found = run("environment_to_change", workspace=self._workspace, name=name)
        is_new = not found
        environment = self._new_environment(name, now) if is_new else found[0]
        # The same content may be stored as the version that was asked for, or as the latest. The next is likely free.
        wanted, free = definition.version or environment["latest_version"], environment["next_version"]
        key = {"workspace": self._workspace, "name": name}
        found = run("stored_and_next", **key, stored=wanted, next=free) if wanted else []
        stored = [row for row in found if row["version"] == wanted]
        taken = any(row["version"] == free for row in found)
        if stored and stored[0]["spec_digest"] == str(written.digest):
            return self._again(run, environment, stored[0], definition, now), False
        if stored and definition.version is not None:
            known = rows.to_version(stored[0], archived=False)
            raise VersionConflict(name, definition.version, stored=known.spec, given=definition.spec)
        version = definition.version or (self._free_version(run, environment) if taken else free)
        revived = bool(environment["archived"])
        row = self._insert_version(run, environment, version, definition, written, now, is_new=is_new)
        if revived:
            self._audit_environment(run, name, False, now)
        self._audit(run, "version.create", f"{name}:{version}", None, _state(row), now)
        reach("version.added")
        return rows.to_version(row, archived=False), True

    def _new_environment(self, name: EnvironmentName, now: datetime) -> Row:
        """One that is not there yet: `_insert_version` inserts it, with its first version."""
        time = rows.from_time(now)
        return {
            "workspace": self._workspace,
            "name": name,
            "archived": 0,
            "latest_version": None,
            "next_version": FIRST_VERSION,
            "last_sequence": 0,
            "created_at": time,
            "modified_at": time,
        }

    def _free_version(self, run: Run, environment: Row) -> VersionName:
        key = {"workspace": self._workspace, "name": environment["name"]}
        version = VersionName(environment["next_version"])
        while run("version_sequence", **key, version=version):
            version = parse_version(str(int(version) + 1))
        return version

    def _insert_version(
        self,
        run: Run,
        environment: Row,
        version: VersionName,
        definition: Definition,
        written: WrittenSpec,
        now: datetime,
        *,
        is_new: bool,
    ) -> Row:
        """Insert it, and change its environment; or insert that, too, if it `is_new`."""
        spec = {"workspace": self._workspace, "document_digest": str(Digest.of(written.document.encode()))}
        run("insert_spec", **spec, document=written.document)
        if environment["archived"]:
            self._revive(run, environment)
        time, sequence = rows.from_time(now), environment["last_sequence"] + 1
        new: Row = {
            "archived": 0,
            "latest_version": version,
            "next_version": next_after(VersionName(environment["next_version"]), version),
            "last_sequence": sequence,
        }
        if is_new:
            run("insert_environment", **environment | new)
        else:
            self._change_environment(run, environment, **new, modified_at=_later(now, environment["modified_at"]))
        row: Row = {
            **spec,
            "name": definition.name,
            "version": version,
            "sequence": sequence,
            "spec_digest": str(written.digest),
            "description": definition.description,
            "tags": rows.from_tags(definition.tags),
            "archived": 0,
            "created_at": time,
            "modified_at": time,
            "details": rows.from_details(definition.details),
        }
        run("insert_version", **row)
        return row | {"document": written.document}

    def _again(self, run: Run, environment: Row, row: Row, definition: Definition, now: datetime) -> EnvironmentVersion:
        """The same content is registered once more: restore it, and take over description and tags where given."""
        if environment["archived"]:
            self._revive(run, environment)
            self._change_environment(run, environment, archived=0, modified_at=_later(now, environment["modified_at"]))
            self._audit_environment(run, definition.name, False, now)
            row = self._version(run, definition.name, row["version"])
        description = row["description"] if definition.description is None else definition.description
        tags = definition.tags or json.loads(row["tags"])
        details = json.loads(row["details"] or "{}") | dict(definition.details)
        texts = {"description": description, "tags": rows.from_tags(tags), "details": rows.from_details(details)}
        return self._change(run, environment, row, now=now, new=texts | {"archived": 0})

    def _revive(self, run: Run, environment: Row) -> None:
        """Bring an archived environment back for one of its versions; the others stay archived, each by itself."""
        run("archive_versions", the_workspace=self._workspace, the_name=environment["name"], archived=1)

    def _change(self, run: Run, environment: Row, row: Row, *, now: datetime, new: Row) -> EnvironmentVersion:
        new = {"details": row["details"], **new}
        if any(row[column] != value for column, value in new.items()):
            new["modified_at"] = _later(now, row["modified_at"])
            key = {f"the_{column}": row[column] for column in ("workspace", "name", "version")}
            run("update_version", **key, **new)
            action = "version.update"
            if row["archived"] != new["archived"]:
                action = "version.archive" if new["archived"] else "version.restore"
            subject = f"{row['name']}:{row['version']}"
            self._audit(run, action, subject, _state(row), _state(row | new), now)
        return rows.to_version(row | new, archived=bool(environment["archived"]))

    def _audit_environment(self, run: Run, name: EnvironmentName, archived: bool, now: datetime) -> None:
        action = "environment.archive" if archived else "environment.restore"
        self._audit(run, action, name, {"archived": not archived}, {"archived": archived}, now)

    def _change_environment(self, run: Run, row: Row, **new: str | int) -> None:
        """Write what is new of an environment. `row`: as it was read; it has the new values afterwards."""
        seen = {f"the_{column}": row[column] for column in ("workspace", "name", "modified_at")}
        row |= new
        changing = ("archived", "latest_version", "next_version", "last_sequence", "modified_at")
        run("update_environment", **seen, **{column: row[column] for column in changing})

    def _environment(self, run: Run, name: EnvironmentName, *, change: bool = False) -> Row:
        found = run("environment_to_change" if change else "environment", workspace=self._workspace, name=name)
        if not found:
            raise EnvironmentNotFound(name, self._names_like(run, name))
        return found[0]

    def _names_like(self, run: Run, name: EnvironmentName) -> list[str]:
        """Names among which near ones may be. To compare all names of a large store would take longer than all else."""
        found = [row["name"] for row in run("environment_names", workspace=self._workspace, limit=_NAMES)]
        if len(found) < _NAMES:
            return found
        names: dict[str, None] = {}
        for first in dict.fromkeys((name[:6], name[:3], name[:1], name[:3].swapcase(), name[:1].swapcase())):
            page = run("environment_names_from", workspace=self._workspace, first=first, limit=_NAMES // 4)
            names.update(dict.fromkeys(row["name"] for row in page))
        return list(names)

    def _version(self, run: Run, name: EnvironmentName, version: VersionName) -> Row:
        return self._only(run, name, version, run("version", workspace=self._workspace, name=name, version=version))

    def _sequence(self, run: Run, name: EnvironmentName, version: VersionName) -> int:
        found = run("version_sequence", workspace=self._workspace, name=name, version=version)
        return int(self._only(run, name, version, found)["sequence"])

    def _check_version(self, run: Run, name: EnvironmentName, version: VersionName) -> None:
        self._environment(run, name)
        self._sequence(run, name, version)

    def _only(self, run: Run, name: EnvironmentName, version: VersionName, found: list[Row]) -> Row:
        if not found:
            newest = run("newest_versions", workspace=self._workspace, name=name, limit=_NEWEST)
            raise VersionNotFound(name, version, [row["version"] for row in newest])
        return found[0]

    def _labeled(self, run: Run, name: EnvironmentName) -> Environment:
        return rows.to_environments(run("environment_labeled", workspace=self._workspace, name=name))[0]


def _state(row: Row) -> dict[str, Any]:
    """A version, as audit records tell of it."""
    return {
        "spec": row["spec_digest"],
        "description": row["description"],
        "tags": json.loads(row["tags"]),
        "details": json.loads(row["details"] or "{}"),
        "archived": bool(row["archived"]),
    }


def _later(now: datetime, before: str) -> str:
    """The time of a change: now, but always later than the change before it, whatever the clock does."""
    return rows.from_time(max(now, rows.to_time(before) + timedelta(microseconds=1)))
