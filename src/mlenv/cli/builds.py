"""`mlenv build list|show|logs|cancel`: builds in a server's queue, and those that have ended."""

import argparse
from typing import Any, Final

from msgspec import Struct

from mlenv.cli.arguments import add_reference, add_workspace, to_optional_reference
from mlenv.cli.command import Context, ExitStatus, UsageError, Verb
from mlenv.cli.documents import rfc3339
from mlenv.cli.printer import Column, Output, visible
from mlenv.core.records import BuildRecord, BuildStatus
from mlenv.core.reference import Reference

BUILD_COLUMNS: Final = (
    Column("Build", "id"),
    Column("Environment", "environment"),
    Column("Platform", "platform"),
    Column("Status", "status"),
    Column("Queued", "queued_at"),
    Column("Ended", "ended_at"),
)
_SHOWN: Final = 50


def build_document(build: BuildRecord) -> dict[str, Any]:
    """One build. Times are UTC; seconds are of single steps."""
    return {
        "id": build.id,
        "environment": f"{build.name}:{build.version}",
        "platform": str(build.platform),
        "status": build.status.value,
        "image": str(build.image) if build.image else None,
        "error": build.error,
        "requested_by": build.requested_by,
        "priority": build.priority,
        "attempts": build.attempts,
        "queued_at": rfc3339(build.queued_at) if build.queued_at else None,
        "started_at": rfc3339(build.started_at),
        "ended_at": rfc3339(build.ended_at) if build.ended_at else None,
        "steps": [{"title": each.title, "seconds": each.seconds, "note": each.note} for each in build.steps],
    }


# list


class ListSettings(Struct, frozen=True):
    """Of which version, or all; which of them; how many."""

    reference: Reference | None
    status: BuildStatus | None
    limit: int


def _list_arguments(parser: argparse.ArgumentParser) -> None:
    add_reference(parser)
    parser.add_argument("--status", choices=[each.value for each in BuildStatus], help="only those that stand so")
    parser.add_argument(
        "-r",
        "--max-results",
        type=int,
        default=_SHOWN,
        metavar="COUNT",
        help="no more than so many (default: %(default)s)",
    )


def _list_settings(namespace: argparse.Namespace) -> ListSettings:
    if namespace.max_results < 1:
        raise UsageError(f"--max-results: {namespace.max_results} is less than 1")
    status = BuildStatus(namespace.status) if namespace.status else None
    return ListSettings(to_optional_reference(namespace), status, namespace.max_results)


def _list(settings: ListSettings, context: Context) -> int:
    if context.connection is None:
        if settings.reference is None:
            raise UsageError("the builds of which environment?", "write NAME or NAME:VERSION, or name a server")
        version = context.store.environments.version(settings.reference)
        found = [
            each
            for each in context.store.registry.builds(version.name, version.version)
            if settings.status in {None, each.status}
        ][: settings.limit]
    else:
        store = context.remote
        of = None
        if settings.reference is not None:
            asked = store.environments.version(settings.reference)
            of = (asked.name, asked.version)
        found = list(store.registry.all_builds(of=of, status=settings.status, limit=settings.limit))
    context.printer.data([build_document(each) for each in found], BUILD_COLUMNS)
    return ExitStatus.DONE


list_all: Final = Verb(_list_arguments, _list_settings, _list)


# show, cancel and logs


class OneSettings(Struct, frozen=True):
    """Which build; and whether its log is followed."""

    id: str
    follow: bool = False


def _one_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID", help="the build's id, as `mlenv build list` prints it")
    add_workspace(parser)


def _one_settings(namespace: argparse.Namespace) -> OneSettings:
    return OneSettings(namespace.id, getattr(namespace, "follow", False))


def _show(settings: OneSettings, context: Context) -> int:
    context.printer.data(build_document(context.remote.registry.build(settings.id)), BUILD_COLUMNS)
    return ExitStatus.DONE


def _cancel(settings: OneSettings, context: Context) -> int:
    build = context.remote.registry.cancel_build(settings.id)
    canceled = build.status is BuildStatus.CANCELED
    context.printer.say(f"canceled {build.id}" if canceled else f"{build.id} has ended before: {build.status}")
    return ExitStatus.DONE


def _logs_arguments(parser: argparse.ArgumentParser) -> None:
    _one_arguments(parser)
    parser.add_argument(
        "-f", "--follow", action="store_true", help="go on until the build has ended, and end as it did"
    )


def _logs(settings: OneSettings, context: Context) -> int:
    registry = context.remote.registry
    on_terminal = context.printer.stdout.isatty()
    pieces = (f"{line}\n" for line in registry.log_lines(settings.id)) if settings.follow else registry.log(settings.id)
    for piece in pieces:
        # What packages write while they are built must not steer a terminal.
        context.printer.text(visible(piece) if on_terminal else piece)
        if settings.follow:
            context.printer.stdout.flush()
    if not settings.follow:
        return ExitStatus.DONE
    build = context.remote.building.ended(registry.build(settings.id))
    context.printer.say(f"{build.name}:{build.version} {build.status}{f': {build.error}' if build.error else ''}")
    return ExitStatus.DONE if build.status is BuildStatus.SUCCEEDED else ExitStatus.FAILED


show: Final = Verb(_one_arguments, _one_settings, _show)
cancel: Final = Verb(_one_arguments, _one_settings, _cancel)
logs: Final = Verb(_logs_arguments, _one_settings, _logs, Output.TABLE)
