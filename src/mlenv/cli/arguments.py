"""Arguments that many commands share: references, workspaces, `KEY=VALUE`."""

import argparse
from collections.abc import Iterable
from dataclasses import replace

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
    """Azure's addressing. This store has one workspace, which all of it means."""
    group = parser.add_argument_group("accepted for Azure: this store has one workspace")
    group.add_argument("-g", "--resource-group", metavar="GROUP", help="taken for the one there is")
    group.add_argument("-w", "--workspace-name", metavar="WORKSPACE", help="taken for the one there is")
    group.add_argument("--registry-name", metavar="REGISTRY", help="refused: there are no registries here")
    group.add_argument("--subscription", metavar="ID", help="taken for the one there is")


def to_reference(namespace: argparse.Namespace) -> Reference:
    """
    The reference that was given. Raises `UsageError` if there is none.

    Raises:
        UsageError: There is none, or there are two.
        InvalidReference, InvalidName: It is none.
    """
    reference = to_optional_reference(namespace)
    if reference is None:
        raise UsageError("no environment is named", "write NAME, NAME:VERSION or NAME@LABEL, or use --name")
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
    if namespace.registry_name is not None and reference.registry is None:
        reference = replace(reference, registry=namespace.registry_name, workspace=None)
    return reference


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
