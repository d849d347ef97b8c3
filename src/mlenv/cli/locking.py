"""The options that say how, and for what platform, a version is locked: lock, build, run and others share them."""

import argparse
import os
from datetime import UTC, date, datetime

from mlenv.cli.command import UsageError
from mlenv.core.locking import LockOptions
from mlenv.core.platform import Platform


def add_lock_options(parser: argparse.ArgumentParser) -> None:
    """The options that say how a version is locked, if it is not locked yet."""
    group = parser.add_argument_group("how it is locked, the first time")
    group.add_argument(
        "--allow-source", action="append", default=[], metavar="PACKAGE", help="it may be built from source"
    )
    group.add_argument(
        "--allow-source-auto", action="store_true", help="whatever has no wheel may be built from source; each is named"
    )
    group.add_argument("--as-of", metavar="DATE", help="take the package index as it stood then: 2023-06-01, UTC")
    group.add_argument("--no-bytecode", action="store_true", help="leave compiled bytecode out of images")
    group.add_argument(
        "--build-arg",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="for an ARG of the Dockerfile; kept in the lock, so not for secrets; may be repeated",
    )


def to_lock_options(namespace: argparse.Namespace) -> LockOptions | None:
    """What was said of locking, or None if nothing was. Raises `UsageError`."""
    options = LockOptions(
        allow_source=tuple(namespace.allow_source),
        allow_source_auto=namespace.allow_source_auto,
        as_of=_moment(namespace.as_of) if namespace.as_of else None,
        bytecode=not namespace.no_bytecode,
        arguments=tuple(sorted(_arguments(namespace.build_arg).items())) if namespace.build_arg else None,
    )
    return None if options == LockOptions() else options


def _arguments(words: list[str]) -> dict[str, str]:
    """`NAME=VALUE`, or `NAME` for the value of the variable of that name, as docker has it."""
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not name or (not equals and name not in os.environ):
            raise UsageError(f"--build-arg {word!r} has no value", "write NAME=VALUE")
        found[name] = value if equals else os.environ[name]
    return found


def _moment(text: str) -> datetime:
    """A date stands for its end, as `--as-of 2023-06-01` means the index on that day."""
    try:
        if len(text) == len("2023-06-01"):
            day = date.fromisoformat(text)
            return datetime(day.year, day.month, day.day, 23, 59, 59, tzinfo=UTC)
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--as-of: {text!r} is not a date", "write 2023-06-01, or 2023-06-01T12:00:00Z") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)


def add_platform(parser: argparse.ArgumentParser, what: str) -> None:
    """`--platform`."""
    parser.add_argument("--platform", metavar="OS/ARCH", help=f"{what}: linux/amd64 or linux/arm64")


def to_platform(namespace: argparse.Namespace) -> Platform | None:
    """The platform that was named, or None. Raises `InvalidPlatform`."""
    return Platform.parse(namespace.platform) if namespace.platform else None
