"""Data as text: JSON, YAML, tables, tab-separated values."""

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from mlenv.cli.printer import Column, Document, Output, visible

_KEY: Final = "\x1b[34m"
_STRING: Final = "\x1b[32m"
_OTHER: Final = "\x1b[36m"
_RESET: Final = "\x1b[0m"
_JSON_TOKEN: Final = re.compile(r'(?P<key>"(?:[^"\\]|\\.)*"(?=:))|(?P<string>"(?:[^"\\]|\\.)*")|(?P<other>[\w.+-]+)')
_YAML_KEY: Final = re.compile(r"(?m)^(?P<before>[ -]*)(?P<key>[^\s:#'\"][^:\n]*|\"[^\"\n]*\"|'[^'\n]*')(?=:(?:\s|$))")
_UNSAFE_JSON: Final = re.compile("[\x7f-\x9f\ud800-\udfff]")


def render(document: Document, output: Output, columns: Sequence[Column], *, colour: bool) -> Iterator[str]:
    """The text of data, in pieces, each whole lines."""
    if output in {Output.JSON, Output.JSONC}:
        yield _json(document, colour=colour)
    elif output in {Output.YAML, Output.YAMLC}:
        yield _yaml(document, colour=colour)
    elif output is Output.TABLE:
        yield from _table(document, columns)
    elif output is Output.TSV:
        yield from _tsv(document, columns)


def _json(document: Document, *, colour: bool) -> str:
    text = json.dumps(document, indent=2, ensure_ascii=False)
    text = _UNSAFE_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
    if colour:
        text = _JSON_TOKEN.sub(_coloured, text)
    return text + "\n"


def _coloured(match: re.Match[str]) -> str:
    colour = {"key": _KEY, "string": _STRING, "other": _OTHER}[match.lastgroup or "other"]
    return f"{colour}{match[0]}{_RESET}"


def _yaml(document: Document, *, colour: bool) -> str:
    import io

    from ruamel.yaml import YAML
    from ruamel.yaml.representer import SafeRepresenter

    class _Representer(SafeRepresenter):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    def _text(representer: SafeRepresenter, text: str) -> Any:
        return representer.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)

    def _nothing(representer: SafeRepresenter, _: None) -> Any:
        return representer.represent_scalar("tag:yaml.org,2002:null", "null")

    _Representer.add_representer(str, _text)
    _Representer.add_representer(type(None), _nothing)
    yaml = YAML(typ="safe", pure=True)
    yaml.Representer = _Representer
    yaml.default_flow_style = False
    yaml.allow_unicode = True
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.width = 4096
    stream = io.StringIO()
    yaml.dump(document, stream)
    text = stream.getvalue().removesuffix("...\n")
    return _YAML_KEY.sub(lambda match: f"{match['before']}{_KEY}{match['key']}{_RESET}", text) if colour else text


def _table(document: Document, columns: Sequence[Column]) -> Iterator[str]:
    titles, rows = _rows(document, columns)
    if not rows:
        return
    texts = [[_cell(value) for value in row] for row in rows]
    widths = [max(_width(each) for each in column) for column in zip(titles, *texts, strict=True)]
    for line in (titles, ["-" * width for width in widths], *texts):
        cells = (text + " " * (width - _width(text)) for text, width in zip(line, widths, strict=True))
        yield "  ".join(cells).rstrip() + "\n"


def _tsv(document: Document, columns: Sequence[Column]) -> Iterator[str]:
    _, rows = _rows(document, columns)
    for row in rows:
        yield "\t".join(_cell(value).replace("\t", " ") for value in row) + "\n"


def _rows(document: Document, columns: Sequence[Column]) -> tuple[list[str], list[list[Any]]]:
    """Titles and cells: of the columns, or of the keys of the first mapping, or of the values by themselves."""
    values: Any = document
    if isinstance(document, str | Mapping) or not isinstance(document, Sequence):
        values = [document]
    entries: list[Any] = [each for each in values if each is not None]
    if columns:
        return [each.title for each in columns], [[_at(entry, each.path) for each in columns] for entry in entries]
    if entries and all(isinstance(each, Mapping) for each in entries):
        keys = list(dict.fromkeys(key for each in entries for key in each if _is_plain(each[key])))
        return [_title(key) for key in keys], [[each.get(key) for key in keys] for each in entries]
    if entries and all(isinstance(each, Sequence) and not isinstance(each, str) for each in entries):
        longest = max(len(each) for each in entries)
        titles = [f"Column{number}" for number in range(1, longest + 1)]
        return titles, [[*each, *[None] * (longest - len(each))] for each in entries]
    return ["Result"], [[each] for each in entries]


def _at(document: Any, path: str) -> Any:
    for key in path.split("."):
        document = document.get(key) if isinstance(document, Mapping) else None
    return document


def _is_plain(value: Any) -> bool:
    return not isinstance(value, Mapping | list | tuple)


def _title(key: str) -> str:
    return key[:1].upper() + key[1:]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping | list | tuple):
        value = json.dumps(value, ensure_ascii=False)
    return " ".join(visible(str(value)).splitlines())


def _width(text: str) -> int:
    """How many places text takes on a terminal: wide East Asian characters take two (UAX 11)."""
    if text.isascii():
        return len(text)
    return sum(2 if unicodedata.east_asian_width(each) in "WF" else 1 for each in text)
