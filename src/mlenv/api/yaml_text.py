"""
YAML into data that remembers where each piece stands, safe to run on anything.

Scalars keep the text that was written (`1.10` stays `1.10`) beside the type that YAML 1.1 gives them, since that is
what Azure's client reads by (yaml.org/type, "repository of language-independent types for YAML 1.1").
"""

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from mlenv.api.files import TEXT_LIMIT
from mlenv.api.problems import InvalidSyntax, Place

if TYPE_CHECKING:
    from ruamel.yaml.events import Event

#: How deep lists and mappings may be nested.
_DEPTH: Final = 64
#: How many values a document may have once its aliases are followed.
_VALUES: Final = 20_000
_TAG: Final = "tag:yaml.org,2002:"


class Kind(StrEnum):
    """The type of a scalar, in words for people."""

    STRING = "a string"
    INTEGER = "an integer"
    FLOAT = "a number"
    BOOLEAN = "a boolean"
    NULL = "null"
    DATE = "a date"


_RESOLUTION: Final = (
    (Kind.NULL, re.compile(r"~|null|Null|NULL|")),
    (Kind.BOOLEAN, re.compile(r"yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF")),
    (
        Kind.INTEGER,
        re.compile(
            r"[-+]?(?:0b[01_]+|0[0-7_]+|0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|[1-9][0-9_]*(?::[0-5]?[0-9])+)",
        ),
    ),
    (
        Kind.FLOAT,
        re.compile(
            r"[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+][0-9]+)?|[-+]?\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?"
            r"|[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+\.[0-9_]*|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
        ),
    ),
    (Kind.DATE, re.compile(r"\d{4}-\d\d-\d\d|\d{4}-\d\d?-\d\d?(?:[Tt]|[ \t]+)\d\d?:\d\d:\d\d(?:\.\d*)?.{0,12}")),
)
_DATE: Final = re.compile(r"(\d{4})-(\d\d?)-(\d\d?)(?:(?:[Tt]|[ \t]+)(\d\d?):(\d\d):(\d\d).*)?")
_TRUE: Final = frozenset(["yes", "true", "on"])
_TAGS: Final = {
    "str": Kind.STRING,
    "int": Kind.INTEGER,
    "float": Kind.FLOAT,
    "bool": Kind.BOOLEAN,
    "null": Kind.NULL,
    "timestamp": Kind.DATE,
}


class Scalar(Struct, frozen=True):
    """One value: its text as written, without quotes, and its type."""

    text: str
    kind: Kind
    place: Place
    size: int = 1

    @property
    def true(self) -> bool:
        """What a boolean says."""
        return self.text.lower() in _TRUE


class YamlList(Struct, frozen=True):
    """A list. `size` counts all values in it, aliases followed."""

    items: tuple["Node", ...]
    place: Place
    size: int = 1


class YamlMap(Struct, frozen=True):
    """A mapping: its values by key, and where each key stands. `size` as in `YamlList`."""

    entries: Mapping[str, "Node"]
    keys: Mapping[str, Scalar]
    place: Place
    size: int = 1


Node = Scalar | YamlList | YamlMap


def resolve(text: str) -> Kind:
    """The type that YAML 1.1 gives to an unquoted scalar."""
    return next((kind for kind, pattern in _RESOLUTION if pattern.fullmatch(text)), Kind.STRING)


def describe(node: Node) -> str:
    """What stands there, for a message: `5 (an integer)`."""
    if isinstance(node, YamlList):
        return "a list"
    if isinstance(node, YamlMap):
        return "a mapping"
    if node.kind is Kind.NULL:
        return "nothing (null)"
    text = node.text if len(node.text) <= 60 else node.text[:57] + "…"
    return f"{text!r} ({node.kind})" if node.kind is Kind.STRING else f"{text} ({node.kind})"


def to_plain(node: Node) -> Any:
    """Lists, dictionaries, text and None: every scalar but null is the text that was written."""
    if isinstance(node, Scalar):
        return None if node.kind is Kind.NULL else node.text
    if isinstance(node, YamlList):
        return [to_plain(each) for each in node.items]
    return {key: to_plain(each) for key, each in node.entries.items()}


def parse_yaml(text: str, file: str) -> Node | None:
    """
    Read one YAML document.

    Args:
        text: The document.
        file: Its file, as the user named it.

    Returns:
        The data, or None if there is none in it.

    Raises:
        InvalidSyntax: It is not YAML, holds a key twice or several documents, carries tags other than YAML's own, or
            is larger, deeper or wider (by aliases) than a definition can be.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError, YAMLStreamError

    if len(text) > TEXT_LIMIT:
        raise InvalidSyntax(f"larger than {TEXT_LIMIT} characters", Place(file))
    loader = YAML(typ="safe", pure=True)
    try:
        return _Composer(loader.parse(text), file).document()
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(file, mark.line + 1, mark.column + 1) if mark else Place(file)
        why = " ".join(str(each) for each in (error.context, error.problem) if each)
        hint = "indent with spaces, not tabs" if "\\t" in why else None
        raise InvalidSyntax(f"not YAML: {why}", place, hint=hint) from error
    except (YAMLError, YAMLStreamError) as error:
        raise InvalidSyntax(f"not YAML: {_first_line(error)}", _position(error, text, file)) from error
    except (ValueError, IndexError, TypeError, AttributeError, AssertionError, RecursionError) as error:
        # NOTE: what the parser raises on some malformed input is not one of its own errors.
        raise InvalidSyntax(f"not YAML: {_first_line(error)}", Place(file)) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _position(error: Exception, text: str, file: str) -> Place:
    """Line and column of a reader's error, which knows only how many characters it read."""
    at = getattr(error, "position", None)
    if not isinstance(at, int):
        return Place(file)
    before = text[:at]
    return Place(file, before.count("\n") + 1, at - before.rfind("\n"))


class _Composer:
    """Makes nodes of a parser's events."""

    def __init__(self, events: Iterator["Event"], file: str) -> None:
        self._events = events
        self._file = file
        self._anchors: dict[str, Node] = {}
        self._values = 0

    def document(self) -> Node | None:
        """The one document of the stream."""
        root: Node | None = None
        documents = 0
        for event in self._events:
            name = type(event).__name__
            if name == "DocumentStartEvent":
                documents += 1
                if documents > 1:
                    raise InvalidSyntax("a second document starts here; expected one", self._place(event))
            elif name not in {"StreamStartEvent", "StreamEndEvent", "DocumentEndEvent"}:
                root = self._node(event, 0)
        return None if isinstance(root, Scalar) and root.kind is Kind.NULL else root

    def _place(self, event: "Event") -> Place:
        return Place(self._file, event.start_mark.line + 1, event.start_mark.column + 1)

    def _next(self) -> "Event":
        return next(self._events)

    def _node(self, event: Any, depth: int) -> Node:
        place = self._place(event)
        if depth > _DEPTH:
            raise InvalidSyntax(f"nested deeper than {_DEPTH} levels", place)
        name = type(event).__name__
        if name == "AliasEvent":
            if event.anchor not in self._anchors:
                raise InvalidSyntax(f"the alias *{event.anchor} has no anchor before it", place)
            return self._counted(self._anchors[event.anchor], place)
        node: Node
        if name == "ScalarEvent":
            node = self._scalar(event, place)
        elif name == "SequenceStartEvent":
            node = self._sequence(event, place, depth)
        else:
            node = self._mapping(event, place, depth)
        if event.anchor:
            self._anchors[event.anchor] = node
        return node

    def _counted(self, node: Node, place: Place) -> Node:
        self._values += node.size
        if self._values > _VALUES:
            raise InvalidSyntax(f"more than {_VALUES} values, aliases followed", place)
        return node

    def _scalar(self, event: Any, place: Place) -> Scalar:
        if event.tag is None or event.tag == "!":
            kind = resolve(event.value) if event.implicit[0] and event.tag is None else Kind.STRING
        else:
            known = _TAGS.get(event.tag.removeprefix(_TAG)) if event.tag.startswith(_TAG) else None
            if known is None:
                raise InvalidSyntax(f"the tag {event.tag!r} is not one that a definition can have", place)
            kind = known
        if not _is_one(event.value, kind):
            # What reads it later, such as Azure's client, fails on it without a word of where.
            raise InvalidSyntax(
                f"{event.value[:60]!r} is not {kind}, but looks like it or is said to be",
                place,
                hint="put it in quotes",
            )
        scalar = Scalar(_characters(event.value, place), kind, place)
        self._counted(scalar, place)
        return scalar

    def _only(self, event: Any, tag: str, place: Place) -> None:
        if event.tag not in {None, "!", _TAG + tag}:
            raise InvalidSyntax(f"the tag {event.tag!r} is not one that a definition can have", place)

    def _sequence(self, event: Any, place: Place, depth: int) -> YamlList:
        self._only(event, "seq", place)
        self._counted(Scalar("", Kind.NULL, place), place)
        items = []
        while type(each := self._next()).__name__ != "SequenceEndEvent":
            items.append(self._node(each, depth + 1))
        return YamlList(tuple(items), place, 1 + sum(item.size for item in items))

    def _mapping(self, event: Any, place: Place, depth: int) -> YamlMap:
        self._only(event, "map", place)
        self._counted(Scalar("", Kind.NULL, place), place)
        entries: dict[str, Node] = {}
        keys: dict[str, Scalar] = {}
        merged: list[YamlMap] = []
        while type(each := self._next()).__name__ != "MappingEndEvent":
            key = self._node(each, depth + 1)
            plain_merge = _is_merge(each)
            value = self._node(self._next(), depth + 1)
            if plain_merge:
                merged += self._merge(value)
                continue
            if not isinstance(key, Scalar):
                raise InvalidSyntax(f"a key must be a single value; found {describe(key)}", key.place)
            if key.text in entries:
                raise InvalidSyntax(
                    f"the key {key.text!r} stands here and on line {keys[key.text].place.line}",
                    key.place,
                    hint="keep one of the two",
                )
            entries[key.text], keys[key.text] = value, key
        for source in merged:
            for text, value in source.entries.items():
                if text not in entries:
                    entries[text], keys[text] = value, source.keys[text]
        return YamlMap(entries, keys, place, 1 + sum(1 + value.size for value in entries.values()))

    def _merge(self, value: Node) -> list[YamlMap]:
        """What `<<` names: a mapping, or a list of them, the first winning (yaml.org/type/merge)."""
        sources = value.items if isinstance(value, YamlList) else (value,)
        for each in sources:
            if not isinstance(each, YamlMap):
                raise InvalidSyntax(f"`<<` takes a mapping or a list of mappings; found {describe(each)}", each.place)
        return [each for each in sources if isinstance(each, YamlMap)]


def _is_one(text: str, kind: Kind) -> bool:
    """Whether a scalar has a value of its type: `2024-13-45` and `!!int x` have none (yaml.org/type)."""
    if kind is Kind.DATE:
        parts = _DATE.fullmatch(text)
        try:
            return parts is not None and bool(datetime(*(int(each) for each in parts.groups() if each)))  # type: ignore[arg-type]
        except ValueError:
            return False
    if kind is Kind.INTEGER:
        return resolve(text) is kind and text.replace("_", "").lstrip("+-") not in {"0b", "0x"}
    if kind is Kind.FLOAT:
        return resolve(text) in {Kind.FLOAT, Kind.INTEGER}
    return kind is not Kind.BOOLEAN or resolve(text) is kind


def _characters(text: str, place: Place) -> str:
    """Text whose escapes are characters: JSON writes some as pairs of surrogates, and halves of these are none."""
    if "\0" in text:
        raise InvalidSyntax("a NUL character in a value", place)
    try:
        return text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError as error:
        raise InvalidSyntax("half of a surrogate pair in a value", place) from error


def _is_merge(event: Any) -> bool:
    return type(event).__name__ == "ScalarEvent" and event.value == "<<" and event.implicit[0] and event.tag is None
