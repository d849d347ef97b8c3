"""`mlenv environment lock|build|export`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from mlenv.cli.arguments import add_reference, to_reference
from mlenv.cli.command import Context, ExitStatus, UsageError, Verb
from mlenv.cli.context_options import add_context_options, to_context_options
from mlenv.cli.locking import add_lock_options, add_platform, to_lock_options, to_platform
from mlenv.core.environment import EnvironmentVersion
from mlenv.core.layer import Compression
from mlenv.core.lock import CONDA, PYPI, Lock, LockedContext, LockedPackage
from mlenv.core.locking import LockOptions
from mlenv.core.platform import Platform
from mlenv.core.reference import Reference
from mlenv.errors import InvalidInput

if TYPE_CHECKING:
    from mlenv.core.conda_package import CondaPackage
    from mlenv.service.context_builds import ContextOptions

# lock


class LockSettings(Struct, frozen=True):
    """What to lock, for what, how or from which file, and where the lock is written besides the store."""

    reference: Reference
    platform: Platform | None
    options: LockOptions | None
    to: Path | None
    file: Path | None


def _lock_arguments(parser: argparse.ArgumentParser) -> None:
    add_reference(parser)
    add_platform(parser, "what for (default: the spec's platforms, or this machine's architecture)")
    parser.add_argument(
        "--to",
        type=Path,
        metavar="FILE",
        help="write it here, too, as pylock.toml; `-` for stdout; with conda packages, pixi.lock, conda-lock.yml and "
        "*.txt are written as those tools read them",
    )
    parser.add_argument(
        "-f", "--file", type=Path, help="take this lock, which mlenv made of the same spec, instead of making one"
    )
    add_lock_options(parser)


def _lock_settings(namespace: argparse.Namespace) -> LockSettings:
    options = to_lock_options(namespace)
    if namespace.file is not None and options is not None:
        raise UsageError("a lock that is made already can't be made in another way", "leave out the other options")
    return LockSettings(to_reference(namespace), to_platform(namespace), options, namespace.to, namespace.file)


def _lock(settings: LockSettings, context: Context) -> int:
    store = context.store
    version = store.environments.version(settings.reference)
    platforms = (settings.platform,) if settings.platform else store.platforms_of(version)
    if settings.file is not None:
        platforms = (_take_lock(settings.file, version, settings.platform, context),)
    if settings.to and len(platforms) > 1:
        raise UsageError("one file can't hold the locks of several platforms", "choose one with --platform")
    if settings.to and settings.to.is_dir():
        raise InvalidInput(f"can't write {settings.to}: it is a directory, expected a file")
    if settings.to and not settings.to.parent.is_dir():
        raise InvalidInput(f"can't write {settings.to}: there is no directory {settings.to.parent}")
    locks = [store.locking.lock(version, each, settings.options, progress=context.progress) for each in platforms]
    if settings.to is None:
        documents = [_lock_document(str(version), each) for each in locks]
        if context.printer.tabular:
            context.printer.data([row for each in documents for row in _package_rows(each)])
        else:
            context.printer.data(documents[0] if len(documents) == 1 else documents)
    elif str(settings.to) == "-":
        context.printer.text(locks[0].to_pylock())
    else:
        store.locking.write(locks[0], settings.to)
        context.printer.say(f"wrote {settings.to}")
    return ExitStatus.DONE


def _take_lock(file: Path, version: EnvironmentVersion, platform: Platform | None, context: Context) -> Platform:
    """Make a file the version's lock. Gives the platform it is for."""
    from mlenv.api.files import TOML_LIMIT, read_text
    from mlenv.api.problems import Place

    text = read_text(file, Place(str(file)), limit=TOML_LIMIT)
    platform = platform or Lock.from_pylock(text).target.platform
    _, new = context.store.lock_files.add(version, platform, text)
    if not new:
        context.printer.say(f"{version} has this lock for {platform} already")
    return platform


def _lock_document(name: str, lock: Lock) -> dict[str, Any]:
    return {
        "environment": name,
        "lock": str(lock.digest),
        "platform": str(lock.target.platform),
        "python": lock.target.python or None,
        "glibc": str(lock.target.glibc) if lock.target.glibc else None,
        "base": str(lock.base) if lock.base else None,
        "assumed": lock.base is None and lock.target.glibc is not None,
        "as_of": lock.as_of,
        "bytecode": lock.bytecode,
        "resolver": lock.resolver,
        "size": lock.size,
        "packages": [*map(_conda_document, lock.conda), *map(_package_document, lock.packages)],
        **({"context": _context_document(lock.context)} if lock.context else {}),
    }


def _package_document(package: LockedPackage) -> dict[str, Any]:
    return {
        "name": package.name,
        "version": package.version,
        "size": package.artifact.size,
        "source": package.built_from is not None,
        "manager": PYPI,
    }


def _conda_document(package: "CondaPackage") -> dict[str, Any]:
    return {
        "name": package.name,
        "version": package.version,
        "size": package.artifact.size,
        "source": False,
        "manager": CONDA,
        "build": package.build,
        "subdir": package.subdir,
        "channel": package.channel,
    }


def _context_document(context: LockedContext) -> dict[str, Any]:
    return {
        "digest": str(context.digest),
        "dockerfile": context.dockerfile,
        "bases": [{"name": each.name, "digest": str(each.digest)} for each in context.bases],
        "arguments": dict(context.arguments),
    }


def _package_rows(document: dict[str, Any]) -> list[dict[str, Any]]:
    """What a table shows of a lock: its packages; whose they are and which build, where some are conda's."""
    packages = document["packages"]
    columns = ["name", "version", "size", "source"]
    if any(each["manager"] == CONDA for each in packages):
        columns += ["manager", "build"]
    return [{**{key: each.get(key) for key in columns}, "platform": document["platform"]} for each in packages]


lock: Final = Verb(_lock_arguments, _lock_settings, _lock)


# build


class BuildSettings(Struct, frozen=True):
    """What to build, for what, and how."""

    reference: Reference
    platform: Platform | None
    compression: Compression | None
    options: LockOptions | None
    context: "ContextOptions | None" = None


def _build_arguments(parser: argparse.ArgumentParser) -> None:
    add_reference(parser)
    add_platform(parser, "what for (default: the spec's platforms, or this machine's architecture)")
    parser.add_argument(
        "--compression",
        choices=[each.value for each in Compression],
        help="of the layers that are added; gzip for docker before 23 (default: zstd, and gzip on a server)",
    )
    add_lock_options(parser)
    add_context_options(parser)


def _build_settings(namespace: argparse.Namespace) -> BuildSettings:
    return BuildSettings(
        to_reference(namespace),
        to_platform(namespace),
        Compression(namespace.compression) if namespace.compression else None,
        to_lock_options(namespace),
        to_context_options(namespace),
    )


def _build(settings: BuildSettings, context: Context) -> int:
    store = context.store
    version = store.environments.version(settings.reference)
    platforms = (settings.platform,) if settings.platform else store.platforms_of(version)
    documents = []
    for platform in platforms:
        built = store.building.build(
            version,
            platform,
            compression=settings.compression or store.building.compression,
            options=settings.options,
            context=settings.context,
            progress=context.progress,
        )
        reused = built.record is None
        size = sum(layer.size for layer, _ in built.image.layers)
        if reused:
            context.printer.say(f"{version} is built already")
        else:
            context.printer.say(
                f"built {version}: {built.new_layers} new layers, {built.layers - built.new_layers} reused"
            )
        documents.append(
            {
                "environment": str(version),
                "platform": str(platform),
                "image": str(built.image.manifest.digest),
                "lock": str(built.lock.digest),
                "reused": reused,
                "layers": len(built.image.layers),
                "size": size,
                "new_layers": built.new_layers,
                "steps": [
                    {"title": each.title, "seconds": each.seconds, "note": each.note}
                    for each in (built.record.steps if built.record else ())
                ],
            }
        )
    context.printer.data(documents[0] if len(documents) == 1 else documents)
    return ExitStatus.DONE


build: Final = Verb(_build_arguments, _build_settings, _build)


# export


class ExportSettings(Struct, frozen=True):
    """What to export, where to, and how it is built if it is not yet."""

    reference: Reference
    platform: Platform | None
    compression: Compression | None
    options: LockOptions | None
    context: "ContextOptions | None"
    to: str
    force: bool


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--to", required=True, metavar="TARGET", help="oci-archive:FILE, docker-archive:FILE or dir:PATH"
    )
    parser.add_argument("--force", action="store_true", help="overwrite what is there")
    _build_arguments(parser)


def _export_settings(namespace: argparse.Namespace) -> ExportSettings:
    build = _build_settings(namespace)
    return ExportSettings(
        build.reference,
        build.platform,
        build.compression,
        build.options,
        build.context,
        namespace.to,
        namespace.force,
    )


def _export(settings: ExportSettings, context: Context) -> int:
    from mlenv.build.export import export_image, require_target
    from mlenv.core.image_name import name_of_version

    store = context.store
    version = store.environments.version(settings.reference)
    platforms = (settings.platform,) if settings.platform else store.platforms_of(version)
    if len(platforms) > 1:
        raise UsageError("an export holds the image of one platform", "choose one with --platform")
    require_target(settings.to, force=settings.force)
    built = store.building.build(
        version,
        platforms[0],
        compression=settings.compression or store.building.compression,
        options=settings.options,
        context=settings.context,
        progress=context.progress,
    )
    name = name_of_version(version.name, version.version)
    store.building.bring(built.image, context.progress)
    with context.progress.step(f"Writing {settings.to}"):
        export_image(built.image, settings.to, store.blobs, name=name, force=settings.force)
    context.printer.data({"environment": str(version), "image": str(built.image.manifest.digest), "to": settings.to})
    return ExitStatus.DONE


export: Final = Verb(_export_arguments, _export_settings, _export)
