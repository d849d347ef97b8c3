"""What the command line says over a document: flags and `--set`, put into its data before it is checked."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from mlenv.api.problems import Findings, InvalidField, Place
from mlenv.api.yaml_text import Kind, Node, Scalar, YamlList, YamlMap, parse_yaml, resolve
from mlenv.errors import InvalidInput

#: Flags, where their value goes, and how they are written.
_FLAGS: Final = (
    ("name", ("name",), "--name"),
    ("version", ("version",), "--version"),
    ("description", ("description",), "--description"),
    ("image", ("image",), "--image"),
    ("conda_file", ("conda_file",), "--conda-file"),
    ("build_context", ("build", "path"), "--build-context"),
    ("dockerfile_path", ("build", "dockerfile_path"), "--dockerfile-path"),
    ("os_type", ("os_type",), "--os-type"),
    ("python", ("python",), "--python"),
)


def flag_document(file: str) -> YamlMap:
    """An empty document that stands for the file, to put flags into."""
    return YamlMap({}, {}, Place(file))


def apply_flags(document: YamlMap, overrides: Mapping[str, Any], findings: Findings) -> YamlMap:
    """
    Put flags into a document: `--set` first, then the flags of their own name, as `az` does.

    Args:
        document: The document; it is not changed.
        overrides: `mlenv.api.definition.Overrides`.
        findings: Takes faults of `--set`.
    """
    for each in overrides.get("set") or ():
        try:
            document = _apply_set(document, each)
        except InvalidInput as problem:
            findings.add(problem)
    for key, path, flag in _FLAGS:
        if (value := overrides.get(key)) is not None:
            text = value.as_posix() if isinstance(value, Path) else str(value)
            document = _put(document, path, Scalar(text, Kind.STRING, Place(flag)), flag)
    if tags := overrides.get("tags"):
        place = Place("--tags")
        entries: dict[str, Node] = {name: Scalar(str(text), Kind.STRING, place) for name, text in tags.items()}
        keys = {name: Scalar(name, Kind.STRING, place) for name in entries}
        document = _put(document, ("tags",), YamlMap(entries, keys, place), "--tags")
    if names := overrides.get("allow_source"):
        place = Place("--allow-source")
        there = document.entries.get("allow_source")
        items = there.items if isinstance(there, YamlList) else ()
        more = tuple(Scalar(str(name), Kind.STRING, place) for name in names)
        document = _put(document, ("allow_source",), YamlList((*items, *more), place), "--allow-source")
    return document


def _apply_set(document: YamlMap, text: str) -> YamlMap:
    key, equals, value = text.partition("=")
    path = tuple(key.strip().split("."))
    place = Place(f"--set {key.strip()}")
    if not equals or not all(path):
        raise InvalidField("not a setting", Place("--set"), found=repr(text), expected="`a.b=value`")
    node: Node
    if value[:1] in {"{", "["} and not value.startswith("{{"):
        parsed = parse_yaml(value, place.file)
        node = _flagged(parsed, place) if parsed is not None else Scalar("", Kind.NULL, place)
    else:
        kind = resolve(value)
        node = Scalar(value, kind if kind is Kind.BOOLEAN else Kind.STRING, place)
    return _put(document, path, node, place.file)


def _flagged(node: Node, place: Place) -> Node:
    """The data with every place replaced by the flag it came from."""
    if isinstance(node, Scalar):
        return Scalar(node.text, node.kind, place)
    if isinstance(node, YamlList):
        return YamlList(tuple(_flagged(each, place) for each in node.items), place)
    keys = {key: Scalar(key, Kind.STRING, place) for key in node.keys}
    return YamlMap({key: _flagged(each, place) for key, each in node.entries.items()}, keys, place)


def _put(document: YamlMap, path: tuple[str, ...], value: Node, flag: str) -> YamlMap:
    """The document with a value at a path; mappings on the way are made."""
    key, *rest = path
    if rest:
        inner = document.entries.get(key, YamlMap({}, {}, Place(flag)))
        if isinstance(inner, Scalar) and inner.kind is Kind.NULL:
            inner = YamlMap({}, {}, Place(flag))
        if not isinstance(inner, YamlMap):
            raise InvalidField(f"`{key}` is no mapping, so nothing in it can be set", Place(flag), path=".".join(path))
        value = _put(inner, tuple(rest), value, flag)
    keys = {**document.keys, key: document.keys.get(key, Scalar(key, Kind.STRING, Place(flag)))}
    return YamlMap({**document.entries, key: value}, keys, document.place)
