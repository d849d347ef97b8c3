"""`mlenv environment create|show|list|update|archive|restore`, with the flags of `az ml environment`."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from msgspec import Struct
from msgspec.structs import replace

from mlenv.cli.arguments import add_reference, add_workspace, to_mapping, to_optional_reference, to_reference
from mlenv.cli.command import Context, ExitStatus, UsageError, Verb
from mlenv.cli.documents import ENVIRONMENT_COLUMNS, VERSION_COLUMNS, environment_document, version_document
from mlenv.core.environment import View
from mlenv.core.reference import Reference
from mlenv.errors import InvalidInput

if TYPE_CHECKING:
    from mlenv.service.environments import Change


# create


class CreateSettings(Struct, frozen=True):
    """What `create` is told; see `mlenv.api.definition.Overrides`."""

    file: Path | None
    name: str | None
    version: str | None
    image: str | None
    conda_file: Path | None
    build_context: str | None
    dockerfile_path: str | None
    os_type: str | None
    description: str | None
    tags: dict[str, str]
    set: tuple[str, ...]
    extras: tuple[str, ...]
    groups: tuple[str, ...]
    python: str | None
    allow_source: tuple[str, ...]


def _create_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-f",
        "--file",
        type=Path,
        help="an environment YAML; or, with --name, a conda file, requirements.txt, pyproject.toml or pylock.toml",
    )
    parser.add_argument("-n", "--name", help="the environment's name")
    parser.add_argument("-v", "--version", help="the version (default: the next one)")
    parser.add_argument("-i", "--image", help="the base image")
    parser.add_argument("-c", "--conda-file", type=Path, help="a conda file on top of the image")
    parser.add_argument("-b", "--build-context", metavar="PATH", help="a directory with a Dockerfile, or its URL")
    parser.add_argument("-d", "--dockerfile-path", metavar="PATH", help="the Dockerfile in the build context")
    parser.add_argument("--os-type", help="linux or windows")
    parser.add_argument("--tags", nargs="*", default=[], metavar="KEY=VALUE", help="tags, instead of the file's")
    parser.add_argument("--description", help="free text")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="set a field: tags.team=vision"
    )
    parser.add_argument("--extra", action="append", default=[], help="an extra of pyproject.toml; may be repeated")
    parser.add_argument("--group", action="append", default=[], help="a dependency group of it; may be repeated")
    parser.add_argument("--python", metavar="VERSION", help="the Python that is wanted: 3.11, or a range")
    parser.add_argument(
        "--allow-source", action="append", default=[], metavar="PACKAGE", help="it may be built from source"
    )
    add_workspace(parser)
    parser.add_argument("--datastore", help="accepted for Azure, without effect")
    parser.add_argument("--no-wait", action="store_true", help="accepted for Azure, without effect")


def _create_settings(namespace: argparse.Namespace) -> CreateSettings:
    if namespace.file is None and namespace.name is None and not namespace.set:
        raise UsageError("nothing to create", "give a file with --file, or --name with --image and the like")
    return CreateSettings(
        file=namespace.file,
        name=namespace.name,
        version=namespace.version,
        image=namespace.image,
        conda_file=namespace.conda_file,
        build_context=namespace.build_context,
        dockerfile_path=namespace.dockerfile_path,
        os_type=namespace.os_type,
        description=namespace.description,
        tags=to_mapping("--tags", namespace.tags),
        set=tuple(namespace.set),
        extras=tuple(namespace.extra),
        groups=tuple(namespace.group),
        python=namespace.python,
        allow_source=tuple(namespace.allow_source),
    )


def _create(settings: CreateSettings, context: Context) -> int:
    from mlenv.api.definition import load_definition

    definition = load_definition(
        settings.file,
        name=settings.name,
        version=settings.version,
        image=settings.image,
        conda_file=settings.conda_file,
        build_context=settings.build_context,
        dockerfile_path=settings.dockerfile_path,
        os_type=settings.os_type,
        description=settings.description,
        tags=settings.tags,
        set=settings.set,
        extras=settings.extras,
        groups=settings.groups,
        python=settings.python,
        allow_source=settings.allow_source,
    )
    for warning in definition.warnings:
        context.printer.warn(warning)
    spec = context.store.contexts.taken(definition.spec, progress=context.progress)
    created = context.store.environments.create(replace(definition, spec=spec))
    if created.new:
        context.printer.say(f"created {created.version}")
    else:
        context.printer.say(f"{created.version} is there already, with the same content")
    context.printer.data(version_document(created.version, context.store.place), VERSION_COLUMNS)
    return ExitStatus.DONE


create: Final = Verb(_create_arguments, _create_settings, _create)


# show


def _show(reference: Reference, context: Context) -> int:
    context.printer.data(
        version_document(context.store.environments.version(reference), context.store.place), VERSION_COLUMNS
    )
    return ExitStatus.DONE


show: Final = Verb(add_reference, to_reference, _show)


# list


class ListSettings(Struct, frozen=True):
    """What `list` is told: of which environment the versions, or all environments; which of them; how many."""

    reference: Reference | None
    view: View
    limit: int | None


def _list_arguments(parser: argparse.ArgumentParser) -> None:
    add_reference(parser)
    parser.add_argument("-r", "--max-results", type=_positive, metavar="COUNT", help="no more than so many")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--include-archived", action="store_true", help="archived ones, too")
    which.add_argument("--archived-only", action="store_true", help="nothing but archived ones")


def _list_settings(namespace: argparse.Namespace) -> ListSettings:
    view = View.ALL if namespace.include_archived else View.ARCHIVED if namespace.archived_only else View.ACTIVE
    reference = to_optional_reference(namespace)
    return ListSettings(reference, view, namespace.max_results)


def _list(settings: ListSettings, context: Context) -> int:
    environments = context.store.environments
    if settings.reference is None:
        found = [
            environment_document(each, context.store.place)
            for each in environments.environments(settings.view, limit=settings.limit)
        ]
        context.printer.data(found, ENVIRONMENT_COLUMNS)
        if not found and settings.view is View.ACTIVE:
            context.printer.say("there is none yet: `mlenv environment create --file environment.yml`")
    else:
        versions = environments.versions(settings.reference, settings.view, limit=settings.limit)
        context.printer.data([version_document(each, context.store.place) for each in versions], VERSION_COLUMNS)
    return ExitStatus.DONE


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return min(number, sys.maxsize)


list_all: Final = Verb(_list_arguments, _list_settings, _list)


# update


class UpdateSettings(Struct, frozen=True):
    """What `update` is told."""

    reference: Reference
    change: "Change"


class Immutable(InvalidInput):
    """A field that makes a version what it is was to be changed."""

    hint = "only description and tags can change; for the rest, create a new version"

    def __init__(self, key: str) -> None:
        super().__init__(f"{key!r} of a version can't be changed")
        self.key = key


def _update_arguments(parser: argparse.ArgumentParser) -> None:
    add_reference(parser)
    parser.add_argument("--description", help="the new description; an empty one removes it")
    parser.add_argument("--tags", nargs="*", metavar="KEY=VALUE", help="these tags instead of all there are")
    helps = {
        "--set": ("KEY=VALUE", "tags.team=vision, or description=TEXT"),
        "--add": ("KEY=VALUE", "the same, for tags"),
        "--remove": ("KEY", "tags.team, tags, or description"),
    }
    for flag, (metavar, text) in helps.items():
        parser.add_argument(flag, nargs="+", action="extend", default=[], metavar=metavar, help=text)


def _update_settings(namespace: argparse.Namespace) -> UpdateSettings:
    from mlenv.service.environments import Change

    description: str | None = namespace.description
    replaced = to_mapping("--tags", namespace.tags) if namespace.tags is not None else None
    changed: dict[str, str] = {}
    removed: list[str] = []
    for key, value in to_mapping("--set or --add", _joined([*namespace.set, *namespace.add])).items():
        if key == "description":
            description = value
        else:
            changed[_tag(key)] = value
    for key in _joined(namespace.remove):
        if key == "description":
            description = ""
        elif key == "tags":
            replaced = {}
        else:
            removed.append(_tag(key))
    if description is None and replaced is None and not changed and not removed:
        raise UsageError("nothing to change", "use --description, --tags, --set, --add or --remove")
    return UpdateSettings(to_reference(namespace), Change(description, replaced, changed, tuple(removed)))


def _joined(words: list[str]) -> list[str]:
    """Azure also writes `tags key=value` in two words: make `tags.key=value` of them."""
    joined: list[str] = []
    words = list(words)
    while words:
        word = words.pop(0)
        joined.append(f"tags.{words.pop(0)}" if word == "tags" and words else word)
    return joined


def _tag(key: str) -> str:
    field, _, name = key.partition(".")
    if field != "tags" or not name:
        raise Immutable(key)
    return name


def _update(settings: UpdateSettings, context: Context) -> int:
    version = context.store.environments.update(settings.reference, settings.change)
    context.printer.data(version_document(version, context.store.place), VERSION_COLUMNS)
    return ExitStatus.DONE


update: Final = Verb(_update_arguments, _update_settings, _update)


# archive and restore


def _set_archived(reference: Reference, context: Context, *, archived: bool) -> int:
    changed = context.store.environments.set_archived(reference, archived)
    what = getattr(changed, "version", None)
    done = "archived" if archived else "restored"
    context.printer.say(f"{done} {changed}" if what else f"{done} {reference.name}, with all its versions")
    return ExitStatus.DONE


def _archive(reference: Reference, context: Context) -> int:
    return _set_archived(reference, context, archived=True)


def _restore(reference: Reference, context: Context) -> int:
    return _set_archived(reference, context, archived=False)


archive: Final = Verb(add_reference, to_reference, _archive)
restore: Final = Verb(add_reference, to_reference, _restore)
