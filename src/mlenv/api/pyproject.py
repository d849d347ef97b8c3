"""`pyproject.toml` as a definition: PEP 621 dependencies, chosen extras, and PEP 735 dependency groups."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import tomli

from mlenv.api.dependencies import Dependencies
from mlenv.api.problems import FileProblem, Findings, InvalidField, InvalidSyntax, MissingField, Place, nearest
from mlenv.api.python_version import InvalidPython, parse_python
from mlenv.api.requirement_line import check_requirement
from mlenv.core.spec import Requirement
from mlenv.errors import InvalidInput

#: How deep groups may include groups, and extras name other extras of the same project.
_DEPTH: Final = 32
_INDEXES: Final = "name indexes under `indexes` in an environment YAML"
#: What uv would heed and nobody else does, and what to do instead.
_IGNORED_UV: Final = {
    "sources": f"write `NAME @ URL` into the dependencies, and {_INDEXES}",
    "index": _INDEXES,
    "index-url": _INDEXES,
    "extra-index-url": _INDEXES,
    "find-links": _INDEXES,
    "constraint-dependencies": "write the bounds into the dependencies",
    "override-dependencies": "write dependencies that fit together",
}


def parse_toml(text: str, file: str) -> dict[str, Any]:
    """Read TOML. Raises `InvalidSyntax` with line and column."""
    try:
        return tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        match = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
        lines = text.splitlines() or [""]
        place = Place(file, int(match[1]), int(match[2])) if match else Place(file, len(lines), len(lines[-1]) + 1)
        why = re.sub(r" \(at .*\)$", "", str(error))
        raise InvalidSyntax(f"not TOML: {why}", place) from error
    except RecursionError as error:
        raise InvalidSyntax("not TOML: nested too deep", Place(file)) from error


def parse_pyproject(
    text: str, file: str, *, findings: Findings, extras: Iterable[str] = (), groups: Iterable[str] = ()
) -> Dependencies:
    """
    Read what a project needs.

    Args:
        text: The content of `pyproject.toml`.
        file: Its path, as the user named it.
        findings: Takes faults in single entries, and warnings.
        extras: Names of optional dependencies to include.
        groups: Names of dependency groups to include (PEP 735).

    Raises:
        InvalidSyntax: It is not TOML.
        FileProblem: It has neither `[project]` nor, if groups are asked for, `[dependency-groups]`.
    """
    document = parse_toml(text, file)
    reader = _ProjectReader(document, text, file, findings)
    return reader.read(tuple(extras), tuple(groups))


class _ProjectReader:
    """Reads one project."""

    def __init__(self, document: Mapping[str, Any], text: str, file: str, findings: Findings) -> None:
        self._document = document
        self._lines = text.splitlines()
        self._file = file
        self._findings = findings
        self._found: dict[str, Requirement] = {}
        project = document.get("project")
        self._project: Mapping[str, Any] = project if isinstance(project, dict) else {}

    def read(self, extras: tuple[str, ...], groups: tuple[str, ...]) -> Dependencies:
        if not self._project and not groups:
            tool = self._document.get("tool")
            poetry = isinstance(tool, dict) and "poetry" in tool
            raise FileProblem(
                "there is no [project] table" + (", only [tool.poetry]" if poetry else ""),
                Place(self._file),
                hint="export the dependencies: `poetry export -o requirements.txt`"
                if poetry
                else "write the dependencies under `[project]` (PEP 621), or name groups with `--group`",
            )
        self._dynamic(extras)
        if self._project:
            self._add(self._project.get("dependencies", []), "project.dependencies")
        optional = self._table(self._project.get("optional-dependencies"), "project.optional-dependencies")
        for extra in extras:
            self._extra(extra, optional, 0)
        self._groups(groups)
        self._warn_of_uv()
        return Dependencies(requirements=tuple(self._found.values()), python=self._python())

    def _place(self, *, text: str | None = None, header: str | None = None) -> Place:
        """Where a string literal, or a table's or key's name, stands; TOML's reader doesn't say."""
        for number, line in enumerate(self._lines, 1):
            if text is not None:
                for quoted in (f'"{text}"', f"'{text}'", f'"{text.replace(chr(34), chr(92) + chr(34))}"'):
                    if (column := line.find(quoted)) >= 0:
                        return Place(self._file, number, column + 2)
            elif header is not None and re.match(rf"\s*(?:\[\s*)?{re.escape(header)}\b", line):
                return Place(self._file, number, len(line) - len(line.lstrip()) + 1)
        return Place(self._file)

    def _table(self, value: object, path: str) -> Mapping[str, Any]:
        if value is None:
            return {}
        if isinstance(value, dict):
            return value
        self._wrong(value, path, "a table")
        return {}

    def _wrong(self, value: object, path: str, expected: str) -> None:
        headers = (path, path.split(".")[-1].partition("[")[0])
        place = next((at for each in headers if (at := self._place(header=each)).line), Place(self._file))
        self._findings.add(
            InvalidField("not what is expected here", place, path=path, found=repr(value)[:60], expected=expected)
        )

    def _dynamic(self, extras: tuple[str, ...]) -> None:
        dynamic = self._project.get("dynamic", [])
        for key, asked in (("dependencies", True), ("optional-dependencies", bool(extras))):
            if asked and isinstance(dynamic, list) and key in dynamic:
                self._findings.add(
                    InvalidField(
                        f"`{key}` is dynamic: only a build of the project could tell what it is",
                        self._place(header="dynamic"),
                        path="project.dynamic",
                        hint="write the dependencies into the file, or use the requirements file they come from",
                    )
                )

    def _add(self, lines: object, path: str) -> None:
        if not isinstance(lines, list):
            self._wrong(lines, path, "a list of requirements")
            return
        for number, line in enumerate(lines):
            self._line(line, f"{path}[{number}]")

    def _line(self, line: object, path: str) -> None:
        if not isinstance(line, str):
            self._wrong(line, path, 'a requirement, as in "numpy>=2"')
            return
        if line in self._found:
            return
        try:
            self._found[line] = check_requirement(line, self._place(text=line), self._findings)
        except InvalidInput as problem:
            self._findings.add(problem)

    def _extra(self, extra: str, optional: Mapping[str, Any], depth: int) -> None:
        key = _lookup(extra, optional)
        path = f"project.optional-dependencies.{extra}"
        if key is None or depth > _DEPTH:
            self._findings.add(self._unknown("extra", extra, optional, path))
            return
        lines = optional[key]
        own = self._project.get("name")
        for number, line in enumerate(lines if isinstance(lines, list) else [lines]):
            # A project may name its own extras: `all = ["project[a,b]"]`.
            match = re.fullmatch(r"\s*([A-Za-z0-9._-]+)\s*\[([^\]]*)\]\s*", line) if isinstance(line, str) else None
            if match and isinstance(own, str) and _normal(match[1]) == _normal(own):
                for each in match[2].split(","):
                    self._extra(each.strip(), optional, depth + 1)
            else:
                self._line(line, f"{path}[{number}]")

    def _groups(self, groups: tuple[str, ...]) -> None:
        table = self._table(self._document.get("dependency-groups"), "dependency-groups")
        for group in groups:
            self._group(group, table, ())

    def _group(self, group: str, table: Mapping[str, Any], inside: tuple[str, ...]) -> None:
        """One group, with what it includes (PEP 735, "Dependency Group Include")."""
        path = f"dependency-groups.{group}"
        key = _lookup(group, table)
        if key is None:
            place = self._place(text=group) if inside else None
            self._findings.add(self._unknown("group", group, table, path, place))
            return
        if _normal(group) in inside or len(inside) > _DEPTH:
            chain = " → ".join([*inside, _normal(group)])
            self._findings.add(InvalidField(f"the group includes itself: {chain}", self._place(header=key), path=path))
            return
        entries = table[key]
        if not isinstance(entries, list):
            self._wrong(entries, path, "a list")
            return
        for number, entry in enumerate(entries):
            if isinstance(entry, dict):
                included = entry.get("include-group")
                if set(entry) != {"include-group"} or not isinstance(included, str):
                    self._wrong(entry, f"{path}[{number}]", 'a requirement or { include-group = "NAME" }')
                else:
                    self._group(included, table, (*inside, _normal(group)))
            else:
                self._line(entry, f"{path}[{number}]")

    def _unknown(
        self, what: str, name: str, known: Mapping[str, Any], path: str, place: Place | None = None
    ) -> MissingField:
        meant = nearest(name, known)
        hint = f"did you mean `{meant}`?" if meant else f"there are: {', '.join(sorted(known)) or 'none'}"
        return MissingField(f"there is no {what} {name!r}", place or Place(self._file), path=path, hint=hint)

    def _python(self) -> str | None:
        asked = self._project.get("requires-python")
        if asked is None:
            return None
        try:
            if not isinstance(asked, str):
                raise InvalidPython(repr(asked))
            return parse_python(asked)
        except InvalidPython as error:
            self._findings.add(
                InvalidField(
                    str(error), self._place(header="requires-python"), path="project.requires-python", hint=error.hint
                )
            )
            return None

    def _warn_of_uv(self) -> None:
        tool = self._document.get("tool")
        settings = tool.get("uv") if isinstance(tool, dict) else None
        if not isinstance(settings, dict):
            return
        for key, instead in _IGNORED_UV.items():
            if key in settings:
                place = next(
                    (
                        at
                        for each in (f"tool.uv.{key}", f"[tool.uv.{key}", key)
                        if (at := self._place(header=each)).line
                    ),
                    Place(self._file),
                )
                self._findings.warn(place, f"[tool.uv] {key} is ignored; {instead}")


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _lookup(name: str, table: Mapping[str, Any]) -> str | None:
    return next((key for key in table if _normal(key) == _normal(name)), None)
