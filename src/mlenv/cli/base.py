"""`mlenv base create|import|list|show|pull`: base images in the store."""

import argparse
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from mlenv.cli.command import Context, ExitStatus, Verb
from mlenv.cli.printer import Column, Output
from mlenv.cli.registries import Trust, add_trust, registries, to_trust
from mlenv.core.platform import Platform

if TYPE_CHECKING:
    from mlenv.service.bases import Base


class Create(Struct, frozen=True):
    """What to make: `debian:bookworm` or `debian:trixie`, under which name, with which Debian packages on top."""

    image: str
    name: str
    packages: tuple[str, ...]
    mirror: str | None


class Import(Struct, frozen=True):
    """What to bring in from disk, under which name, for which platform of several."""

    source: str
    name: str
    platform: Platform | None


class Pull(Struct, frozen=True):
    """What to bring in from which registry, under which name, for which platform of several."""

    image: str
    name: str | None
    platform: Platform | None
    trust: Trust


class Show(Struct, frozen=True):
    """Which base."""

    name: str


def _create_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE", help="debian:bookworm or debian:trixie")
    parser.add_argument("--packages", metavar="NAME", nargs="+", default=[], help="Debian packages to add")
    parser.add_argument("--name", metavar="NAME", help="the name it gets here (default: IMAGE)")
    parser.add_argument("--mirror", metavar="URL", help="take Debian packages from this mirror")


def _create_settings(namespace: argparse.Namespace) -> Create:
    return Create(namespace.image, namespace.name or namespace.image, tuple(namespace.packages), namespace.mirror)


def _create(settings: Create, context: Context) -> int:
    base = context.store.bases.create(
        settings.image,
        name=settings.name,
        packages=settings.packages,
        mirror=settings.mirror,
        progress=context.progress,
    )
    context.printer.data(_document(settings.name, base))
    return ExitStatus.DONE


def _import_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="SOURCE", help="oci:DIR[:TAG], oci-archive:FILE[:TAG], docker-archive:FILE[:TAG], or a path"
    )
    parser.add_argument("--name", metavar="NAME", required=True, help="what specs call it: debian:bookworm")
    parser.add_argument("--platform", metavar="OS/ARCH", help="which one, of an image for several platforms")


def _import_settings(namespace: argparse.Namespace) -> Import:
    platform = Platform.parse(namespace.platform) if namespace.platform else None
    return Import(namespace.source, namespace.name, platform)


def _import(settings: Import, context: Context) -> int:
    base = context.store.bases.import_(settings.source, settings.name, settings.platform, progress=context.progress)
    context.printer.data(_document(settings.name, base))
    return ExitStatus.DONE


def _pull_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE", help="REGISTRY/REPOSITORY[:TAG|@DIGEST], or Docker Hub's short names")
    parser.add_argument("--name", metavar="NAME", help="what specs call it, if not by IMAGE")
    parser.add_argument(
        "--platform", metavar="OS/ARCH", help="which one of several (default: that of the machine with the store)"
    )
    add_trust(parser)


def _pull_settings(namespace: argparse.Namespace) -> Pull:
    platform = Platform.parse(namespace.platform) if namespace.platform else None
    return Pull(namespace.image, namespace.name, platform, to_trust(namespace))


def _pull(settings: Pull, context: Context) -> int:
    if context.connection is None:
        registries(settings.trust, context)
    elif settings.trust.insecure:
        from mlenv.service.remote import NotThroughServer

        raise NotThroughServer("saying which registries need no TLS", "whoever runs it sets MLENV_INSECURE_REGISTRIES")
    base = context.store.bases.pull(settings.image, settings.platform, name=settings.name, progress=context.progress)
    context.printer.data(_document(settings.name or settings.image, base))
    return ExitStatus.DONE


def _list_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def _list_settings(_: argparse.Namespace) -> None:
    return None


def _list(_: None, context: Context) -> int:
    names = context.store.bases.names()
    # That it is in a repository under its digest is not how it is called.
    called = {digest for name, digest in names.items() if "@" not in name}
    document = [
        {"name": name, "digest": str(digest)}
        for name, digest in names.items()
        if "@" not in name or digest not in called
    ]
    context.printer.data(document, (Column("Name", "name"), Column("Digest", "digest")))
    if not document:
        context.printer.say("there is none yet: `mlenv base create debian:bookworm`, or `mlenv base import`")
    return ExitStatus.DONE


def _show_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="IMAGE", help="a base in the store, or oci-archive:FILE and the like")


def _show_settings(namespace: argparse.Namespace) -> Show:
    return Show(namespace.name)


def _show(settings: Show, context: Context) -> int:
    base = context.store.bases.need(settings.name, pull=False, progress=context.progress)
    context.printer.data(_document(settings.name, base))
    return ExitStatus.DONE


def _document(name: str, base: "Base") -> dict[str, Any]:
    facts = base.facts
    return {
        "name": name,
        "digest": str(facts.digest),
        "platform": str(facts.platform),
        "os": {"id": facts.os_id, "version": facts.os_version, "name": facts.os_name, "packages": facts.packages},
        "glibc": str(facts.glibc) if facts.glibc else None,
        "pythons": [
            {"path": each.path, "version": each.version, "prefix": each.prefix, "conda": each.conda}
            for each in facts.pythons
        ],
        "cuda": facts.cuda,
        "cudnn": facts.cudnn,
        "conda_prefixes": list(facts.conda_prefixes),
        "layers": facts.layers,
        "size": facts.size,
    }


pull = Verb(_pull_arguments, _pull_settings, _pull)
create = Verb(_create_arguments, _create_settings, _create)
import_ = Verb(_import_arguments, _import_settings, _import)
list_all = Verb(_list_arguments, _list_settings, _list, Output.TABLE)
show = Verb(_show_arguments, _show_settings, _show)
