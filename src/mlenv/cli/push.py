"""`mlenv environment push` and `mlenv base push`."""

import argparse
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from mlenv.cli.arguments import add_reference, to_reference
from mlenv.cli.command import Context, ExitStatus, UsageError, Verb
from mlenv.cli.locking import add_platform, to_platform
from mlenv.cli.printer import Column
from mlenv.cli.registries import Trust, add_trust, registries, to_trust
from mlenv.core.platform import Platform
from mlenv.core.reference import Reference
from mlenv.core.scope import ScopeKind

if TYPE_CHECKING:
    from mlenv.distribution.names import RemoteName
    from mlenv.service.pushing import Pushed

_COLUMNS: Final = (
    Column("Kind", "kind"),
    Column("Digest", "digest"),
    Column("Size", "size"),
    Column("Became", "became"),
)


class PushSettings(Struct, frozen=True):
    """What to push where, for which platform of several; no target is the one of the workspace's settings."""

    reference: Reference
    target: str | None
    platform: Platform | None
    trust: Trust


class PushBaseSettings(Struct, frozen=True):
    """Which base to push where."""

    name: str
    target: str
    trust: Trust


def _push_arguments(parser: argparse.ArgumentParser) -> None:
    add_reference(parser)
    parser.add_argument(
        "target",
        nargs="?",
        metavar="REPOSITORY",
        help="REGISTRY/REPOSITORY[:TAG] (default tag: the version; default: where the server pushes what it builds)",
    )
    parser.add_argument("--to", metavar="REPOSITORY", help="the same, by a flag")
    add_platform(parser, "one of the platforms (default: all of the spec, as an index)")
    add_trust(parser)


def _push_settings(namespace: argparse.Namespace) -> PushSettings:
    # With --name, the one word that is left is the target.
    if namespace.name is not None and namespace.target is None:
        namespace.target, namespace.reference = namespace.reference, None
    if namespace.target is not None and namespace.to is not None:
        raise UsageError("where to? It is said twice", "give either REPOSITORY or --to")
    return PushSettings(
        to_reference(namespace), namespace.target or namespace.to, to_platform(namespace), to_trust(namespace)
    )


def _push(settings: PushSettings, context: Context) -> int:
    from mlenv.core.image_name import tag_of
    from mlenv.distribution.names import RemoteName

    target = _target(RemoteName.parse(settings.target or _default_target(settings.reference, context)))
    registries(settings.trust, context)
    store = context.store
    version = store.environments.version(settings.reference)
    platforms = (settings.platform,) if settings.platform else store.platforms_of(version)
    target = target if target.tag else target.with_tag(tag_of(version.version))
    pushed = store.pushing.push(version, platforms, target, progress=context.progress)
    _print({"environment": str(version)}, pushed, context)
    return ExitStatus.DONE


def _default_target(reference: Reference, context: Context) -> str:
    """Where the server pushes what is built. Raises `UsageError` if that is nowhere."""
    from mlenv.core.image_name import repository_of

    if context.connection is not None:
        remote = context.remote
        path = "workspaces" if remote.kind is ScopeKind.WORKSPACE else "registries"
        prefix = context.http.request("GET", f"/{path}/{remote.name}/settings")["push_to"]
        if prefix:
            return f"{prefix}/{repository_of(reference.name)}"
    raise UsageError("where to?", "name a repository: `mlenv environment push NAME:VERSION REGISTRY/REPOSITORY`")


def _push_base_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="IMAGE", help="a base in the store")
    parser.add_argument("target", metavar="REPOSITORY", help="REGISTRY/REPOSITORY[:TAG] (default tag: latest)")
    add_trust(parser)


def _push_base_settings(namespace: argparse.Namespace) -> PushBaseSettings:
    return PushBaseSettings(namespace.name, namespace.target, to_trust(namespace))


def _push_base(settings: PushBaseSettings, context: Context) -> int:
    from mlenv.distribution.names import RemoteName

    target = _target(RemoteName.parse(settings.target))
    registries(settings.trust, context)
    target = target if target.tag else target.with_tag("latest")
    pushed = context.store.pushing.push_base(settings.name, target, progress=context.progress)
    _print({"base": settings.name}, pushed, context)
    return ExitStatus.DONE


def _target(name: "RemoteName") -> "RemoteName":
    if name.digest is not None:
        raise UsageError(f"where to? {name} names a digest", "give a tag: REGISTRY/REPOSITORY:TAG")
    return name


def _print(what: dict[str, Any], pushed: "Pushed", context: Context) -> None:
    rows = [
        {"kind": each.kind, "digest": str(each.digest), "size": each.size, "became": each.became}
        for each in pushed.blobs
    ]
    if context.printer.tabular:
        context.printer.data(rows, _COLUMNS)
    else:
        sums = {became: pushed.sum(became) for became in ("sent", "mounted", "skipped")}
        context.printer.data({**what, "image": str(pushed.name), "digest": str(pushed.digest), **sums, "blobs": rows})
    context.printer.say(
        f"pushed {pushed.name}@{pushed.digest}: {pushed.sum('sent')} bytes sent, "
        f"{pushed.sum('mounted')} mounted, {pushed.sum('skipped')} there already"
    )


push: Final = Verb(_push_arguments, _push_settings, _push)
push_base: Final = Verb(_push_base_arguments, _push_base_settings, _push_base)
