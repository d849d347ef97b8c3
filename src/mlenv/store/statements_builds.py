"""
The statements over queued builds and those who work on them, by name, as `mlenv.store.statements` has the others. Only
servers make them.
"""

from typing import Final

from sqlalchemy import Executable, and_, bindparam, delete, func, insert, or_, select, update
from sqlalchemy.sql.elements import ColumnElement

from mlenv.core.records import BuildStatus
from mlenv.store.tables import builds, workers

#: What a build is one of at a time.
_SAME: Final = ("workspace", "name", "version", "platform", "compression")
_AT_WORK: Final = builds.c.status.in_([BuildStatus.QUEUED.value, BuildStatus.RUNNING.value])
_CHANGING: Final = ("status", "started_at", "ended_at", "image", "error", "steps", "attempts", "log")


def _is(*columns: str) -> ColumnElement[bool]:
    return and_(*(builds.c[column] == bindparam(column) for column in columns))


def _pages() -> dict[str, Executable]:
    """Pages, the newest first; `before` and `before_id` are of the last one of the page before."""
    earlier = or_(
        builds.c.started_at < bindparam("before"),
        and_(builds.c.started_at == bindparam("before"), builds.c.id < bindparam("before_id")),
    )
    # The same once more, in a way that an index can follow.
    page = (
        select(builds)
        .where(_is("workspace"), builds.c.started_at <= bindparam("before"), earlier)
        .order_by(builds.c.started_at.desc(), builds.c.id.desc())
        .limit(bindparam("limit"))
    )
    of_version = page.where(_is("name", "version"))
    return {
        "build_page": page,
        "build_page_by_status": page.where(_is("status")),
        "build_page_of_version": of_version,
        "build_page_of_version_by_status": of_version.where(_is("status")),
    }


STATEMENTS: Final[dict[str, Executable]] = {
    **_pages(),
    "build": select(builds).where(_is("workspace", "id")),
    "build_to_change": select(builds).where(_is("workspace", "id")).with_for_update(),
    "build_at_work": select(builds).where(_is(*_SAME), _AT_WORK).order_by(builds.c.started_at),
    "build_of_image": select(builds)
    .where(_is(*_SAME, "status", "image"))
    .order_by(builds.c.started_at.desc(), builds.c.id.desc())
    .limit(1),
    "update_build": update(builds)
    .where(and_(builds.c.workspace == bindparam("the_workspace"), builds.c.id == bindparam("the_id")))
    .values({name: bindparam(name) for name in _CHANGING}),
    # Of all namespaces.
    "build_states": select(builds.c.status, func.count().label("count")).where(_AT_WORK).group_by(builds.c.status),
    "builds_at_work": select(builds.c.workspace, builds.c.id, builds.c.attempts, builds.c.priority)
    .where(_AT_WORK, builds.c.queued_at.is_not(None), builds.c.started_at < bindparam("before"))
    .order_by(builds.c.started_at)
    .limit(bindparam("limit")),
    "insert_worker": insert(workers).values({column.name: bindparam(column.name) for column in workers.columns}),
    "worker": select(workers).where(workers.c.id == bindparam("id")),
    "beat": update(workers).where(workers.c.id == bindparam("the_id")).values(beat=bindparam("beat")),
    "workers": select(workers).order_by(workers.c.id),
    "delete_worker": delete(workers).where(workers.c.id == bindparam("id")),
}
