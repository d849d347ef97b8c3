"""The options that say how a Dockerfile is built: of nothing that is kept."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mlenv.cli.command import UsageError

if TYPE_CHECKING:
    from mlenv.service.context_builds import ContextOptions

#: The largest secret, in bytes: what BuildKit takes.
_SECRET: Final = 500 << 10


def add_context_options(parser: argparse.ArgumentParser) -> None:
    """The options."""
    group = parser.add_argument_group("how a Dockerfile is built")
    group.add_argument(
        "--engine",
        choices=("docker", "buildctl", "buildah", "podman"),
        help="what builds it (default: $MLENV_BUILD_ENGINE, or the first of these that answers)",
    )
    group.add_argument(
        "--network",
        choices=("default", "none"),
        help="what its steps may reach (default: $MLENV_BUILD_NETWORK, or what this machine can)",
    )
    group.add_argument(
        "--secret",
        action="append",
        default=[],
        metavar="id=ID,src=FILE|env=NAME",
        help="for `RUN --mount=type=secret,id=ID`; neither kept nor logged; may be repeated",
    )


def to_context_options(namespace: argparse.Namespace) -> "ContextOptions | None":
    """What was said, or None if nothing was. Raises `UsageError`."""
    if namespace.engine is None and namespace.network is None and not namespace.secret:
        return None
    from mlenv.service.context_builds import ContextOptions

    return ContextOptions(namespace.engine, namespace.network, dict(_secret(each) for each in namespace.secret))


def _secret(text: str) -> tuple[str, str]:
    """`id=ID,src=FILE` or `id=ID,env=NAME`, as docker has it: the id and the value."""
    fields = {key: value for key, _, value in (each.partition("=") for each in text.split(","))}
    id = fields.pop("id", "")
    fields.pop("type", None)
    if not id or len(fields) != 1 or not fields.keys() <= {"src", "source", "env"}:
        raise UsageError("a --secret that is none", "write id=ID,src=FILE or id=ID,env=NAME")
    key, value = fields.popitem()
    if key == "env":
        if value not in os.environ:
            raise UsageError(f"--secret id={id}: there is no variable {value}")
        return id, os.environ[value]
    try:
        with Path(value).open("rb") as file:
            data = file.read(_SECRET + 1)
    except OSError as error:
        raise UsageError(f"--secret id={id}: {value} can't be read: {error.strerror}") from error
    if len(data) > _SECRET:
        raise UsageError(f"--secret id={id}: {value} is larger than {_SECRET} bytes")
    try:
        return id, data.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"--secret id={id}: {value} is not UTF-8") from error
