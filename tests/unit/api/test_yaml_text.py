"""YAML with places, safe on hostile input."""

import json
import re
from typing import Any

import pytest

from mlenv.api.conda import to_yaml
from mlenv.api.problems import InvalidSyntax
from mlenv.api.yaml_text import Kind, Scalar, YamlList, YamlMap, describe, parse_yaml, to_plain


def parse(text: str) -> YamlMap:
    node = parse_yaml(text, "e.yml")
    assert isinstance(node, YamlMap)
    return node


def test_every_node_knows_its_line_and_column() -> None:
    node = parse("a: 1\nb:\n  - x\n  - {c: d}\n")
    items = node.entries["b"]
    assert isinstance(items, YamlList)
    inner = items.items[1]
    assert isinstance(inner, YamlMap)
    assert str(node.entries["a"].place) == "e.yml:1:4"
    assert str(items.items[0].place) == "e.yml:3:5"
    assert str(inner.keys["c"].place) == "e.yml:4:6"
    assert str(inner.entries["c"].place) == "e.yml:4:9"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("1.10", Kind.FLOAT),
        ("'1.10'", Kind.STRING),
        ("!!str 1.10", Kind.STRING),
        ("1_0", Kind.INTEGER),
        ("010", Kind.INTEGER),
        ("1:30", Kind.INTEGER),
        ("1e3", Kind.STRING),
        ("1.0e+3", Kind.FLOAT),
        (".inf", Kind.FLOAT),
        ("yes", Kind.BOOLEAN),
        ("Off", Kind.BOOLEAN),
        ("y", Kind.STRING),
        ("~", Kind.NULL),
        ("", Kind.NULL),
        ("2024-01-01", Kind.DATE),
        ("1.2.3", Kind.STRING),
    ],
)
def test_scalars_keep_their_text_and_get_the_type_of_yaml_1_1(text: str, kind: Kind) -> None:
    scalar = parse(f"a: {text}\n").entries["a"]
    assert isinstance(scalar, Scalar)
    assert scalar.kind is kind
    assert scalar.text == text.removeprefix("!!str ").strip("'")


def test_anchors_and_merges_are_followed() -> None:
    node = parse("base: &b {x: 1, y: 2}\nuse:\n  <<: *b\n  y: 3\n")
    assert to_plain(node)["use"] == {"y": "3", "x": "1"}


@pytest.mark.parametrize(
    ("text", "why", "place"),
    [
        ("a: 1\nb: 2\na: 3\n", "the key 'a' stands here and on line 1", "e.yml:3:1"),
        ("a: [1\n", "not YAML", "e.yml:2:1"),
        ("a:\n\tb: 1\n", "cannot start any token", "e.yml:2:1"),
        ("a: !!python/object/apply:os.system ['true']\n", "the tag", "e.yml:1:4"),
        ("a: !x 1\n", "the tag '!x'", "e.yml:1:4"),
        ("a: 1\n---\nb: 2\n", "a second document", "e.yml:2:1"),
        ("a: *b\n", "has no anchor", "e.yml:1:4"),
        ("a: 2024-13-45\n", "'2024-13-45' is not a date, but looks like it", "e.yml:1:4"),
        ("a: 2024-02-30T10:00:00Z\n", "is not a date", "e.yml:1:4"),
        ("a: 2024-01-01 25:00:00\n", "is not a date", "e.yml:1:4"),
        ("a: !!timestamp x\n", "is not a date", "e.yml:1:4"),
        ("a: !!int x\n", "'x' is not an integer", "e.yml:1:4"),
        ("a: 0x_\n", "'0x_' is not an integer", "e.yml:1:4"),
        ("a: !!float x\n", "is not a number", "e.yml:1:4"),
        ("a: !!bool maybe\n", "is not a boolean", "e.yml:1:4"),
        ("a: &a [*a]\n", "has no anchor", "e.yml:1:8"),
        ("a: x\x07\n", "special characters", "e.yml:1:5"),
        ('a: "\\0"\n', "a NUL character", "e.yml:1:4"),
        ('a: "\\ud800"\n', "half of a surrogate pair", "e.yml:1:4"),
        ("? [a]\n: 1\n", "a key must be a single value", "e.yml:1:3"),
        ("a: {<<: 1}\n", "`<<` takes a mapping", "e.yml:1:9"),
        ("[" * 200, "nested deeper than 64 levels", "e.yml:1:66"),
        ("a: " + "x" * (1 << 20), "larger than 1048576 characters", "e.yml"),
    ],
)
def test_what_is_no_yaml_or_dangerous_is_refused_with_its_place(text: str, why: str, place: str) -> None:
    with pytest.raises(InvalidSyntax, match=re.escape(why)) as caught:
        parse_yaml(text, "e.yml")
    assert str(caught.value.place) == place


def test_aliases_that_explode_are_refused() -> None:
    text = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
        f"{name}: &{name} [{','.join(['*' + chr(ord(name) - 1)] * 9)}]\n" for name in "bcdefghij"
    )
    with pytest.raises(InvalidSyntax, match="aliases followed"):
        parse_yaml(text, "e.yml")


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "~\n"])
def test_an_empty_document_is_none(text: str) -> None:
    assert parse_yaml(text, "e.yml") is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("5", "5 (an integer)"),
        ("x", "'x' (a string)"),
        ("", "nothing (null)"),
        ("[a]", "a list"),
        ("{a: b}", "a mapping"),
    ],
)
def test_values_are_described_for_people(text: str, words: str) -> None:
    assert describe(parse(f"a: {text}\n").entries["a"]) == words


@pytest.mark.parametrize("data", [{"a": ["1.10", "x: y", "", "yes", "~"], "b": {"c": "# no"}}, {"n": "10", "m": "é"}])
def test_written_yaml_reads_back_as_the_same_text(data: dict[str, Any]) -> None:
    node = parse(json.dumps(data, ensure_ascii=False))
    assert to_plain(parse(to_yaml(node))) == data
