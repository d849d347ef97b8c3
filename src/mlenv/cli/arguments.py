"""Arguments that many commands share: references, workspaces, `KEY=VALUE`."""

import argparse
from collections.abc import Iterable

from msgspec.structs import replace

from mlenv.cli.command import UsageError
from mlenv.core.reference import Reference, parse_label, parse_version


def add_reference(parser: argparse.ArgumentParser, *, version: bool = True, label: bool = True) -> None:
    """`REFERENCE`, `--name`, and `--version` and `--label` where they make sense, with the workspace."""
    parser.add_argument(
        "reference", nargs="?", metavar="REFERENCE", help="NAME, NAME:VERSION, NAME@LABEL, azureml:…, or an ARM id"
    )
    parser.add_argument("-n", "--name", help="the same, by Azure's flag")
    if version:
        parser.add_argument("-v", "--version", help="the version")
    if label:
        parser.add_argument("-l", "--label", help="a label instead of a version; `latest` is the newest")
    add_workspace(parser)


def add_workspace(parser: argparse.ArgumentParser) -> None:
    """Azure's addressing. The embedded store has one workspace, which all of it means."""
    group = parser.add_argument_group("where on a server; without one, there is one workspace")
    group.add_argument(
        "-w", "--workspace-name", metavar="WORKSPACE", help="the workspace (default: $MLENV_WORKSPACE, or default)"
    )
    group.add_argument("--registry-name", metavar="REGISTRY", help="a registry instead (default: $MLENV_REGISTRY)")
    group.add_argument("-g", "--resource-group", metavar="GROUP", help="accepted for Azure: names are unique here")
    group.add_argument("--subscription", metavar="ID", help="accepted for Azure")


def to_reference(namespace: argparse.Namespace, *, otherwise: str = "--name") -> Reference:
    """
    The reference that was given.

    Args:
        namespace: The command line.
        otherwise: What may stand in its place, for who gave none.

    Raises:
        UsageError: There is none, or there are two.
        InvalidReference, InvalidName: It is none.
    """
    reference = to_optional_reference(namespace)
    if reference is None:
        raise UsageError("no environment is named", f"write NAME, NAME:VERSION or NAME@LABEL, or use {otherwise}")
    return reference


def to_optional_reference(namespace: argparse.Namespace) -> Reference | None:
    """The reference that was given, or None. Raises as `to_reference`."""
    version, label = getattr(namespace, "version", None), getattr(namespace, "label", None)
    if namespace.reference is not None and namespace.name is not None:
        raise UsageError("the environment is named twice", "give either REFERENCE or --name")
    text = namespace.reference if namespace.reference is not None else namespace.name
    if text is None:
        if version is not None or label is not None:
            raise UsageError("a version or label of which environment?", "give its name with --name")
        return None
    reference = Reference.parse(text)
    given = [each for each in (version, label, reference.version, reference.label) if each is not None]
    if len(given) > 1:
        raise UsageError(f"which version? {' and '.join(repr(str(each)) for each in given)} are both given")
    if version is not None:
        reference = replace(reference, version=parse_version(version))
    if label is not None:
        reference = replace(reference, label=parse_label(label))
    _place(namespace, reference)
    return replace(reference, registry=None, workspace=None)


def _place(namespace: argparse.Namespace, reference: Reference) -> None:
    """A workspace or registry that the reference itself names counts as named by its flag, which may not say another."""
    workspace = reference.workspace.name if reference.workspace else None
    if reference.registry is not None:
        if namespace.registry_name not in {None, reference.registry}:
            raise UsageError(f"which registry? {reference.registry!r} and {namespace.registry_name!r} are both given")
        namespace.registry_name, namespace.workspace_name = reference.registry, None
    elif workspace is not None and namespace.registry_name is None:
        namespace.workspace_name = workspace


def to_mapping(flag: str, texts: Iterable[str]) -> dict[str, str]:
    """`KEY=VALUE` each; `""` stands for none at all. Raises `UsageError`."""
    pairs: dict[str, str] = {}
    for text in texts:
        if not text:
            continue
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"{flag}: {text!r} is not KEY=VALUE")
        pairs[key] = value
    return pairs
