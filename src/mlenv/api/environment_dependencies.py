"""The part of the environment YAML that says what is installed: `conda_file`, `requirements`, and what goes with them."""

import re
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from mlenv.api import schema
from mlenv.api.conda import CondaDefinition, conda_from_node, parse_conda
from mlenv.api.dependencies import Dependencies
from mlenv.api.fields import Fields, from_flag
from mlenv.api.files import Read, shown
from mlenv.api.problems import Findings, InvalidField
from mlenv.api.python_version import InvalidPython, parse_python
from mlenv.api.requirement_options import check_index_url
from mlenv.api.requirements import Requirements, RequirementsReader
from mlenv.api.variables import check_variables
from mlenv.api.yaml_text import Kind, Node, Scalar, YamlList, YamlMap, describe
from mlenv.core.spec import Index, Sources
from mlenv.errors import InvalidInput

_PROJECT: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")


def read_dependencies(fields: Fields, *, base: Path, read: Read, direct: Dependencies | None) -> Dependencies:
    """
    What the document says is installed.

    Args:
        fields: The document's fields.
        base: Its directory.
        read: Brings the files it names.
        direct: Dependencies that come from a file of their own; the document may then name none.
    """
    reader = _DependencyReader(fields, base, read)
    if direct is None:
        found = reader.conda() if "conda_file" in fields else reader.requirements()
    else:
        found = direct
        for key in ("conda_file", "requirements", "build"):
            if key in fields:
                place = fields.place(key)
                fields.findings.add(InvalidField("the file says already what is installed", place, path=key))
    python = reader.python()
    return replace(
        found,
        python=python or found.python,
        sources=reader.sources(found.sources),
        allow_source=tuple(sorted({*found.allow_source, *reader.allow_source()})),
        prereleases=found.prereleases or fields.flag("prereleases"),
    )


class _DependencyReader:
    """Reads the fields one by one."""

    def __init__(self, fields: Fields, base: Path, read: Read) -> None:
        self._fields, self._base, self._read = fields, base, read
        self._findings = fields.findings

    def _file(self, scalar: Scalar) -> tuple[str, str]:
        """The text of a file that the document names, and its name for people."""
        path = (Path() if from_flag(scalar) else self._base) / scalar.text
        return self._read(path, scalar.place), shown(path)

    def conda(self) -> Dependencies:
        node = self._fields.node("conda_file", "a path or a mapping")
        if node is None or (isinstance(node, Scalar) and node.kind is Kind.STRING and not node.text):
            return Dependencies()
        if isinstance(node, YamlMap):
            if not node.entries:
                return Dependencies()
            return from_conda(
                conda_from_node(node, None, findings=self._findings, read=self._read, path="conda_file"), self._findings
            )
        if isinstance(node, YamlList) or not (node.kind is Kind.STRING or from_flag(node)):
            self._fields.wrong("conda_file", node, "a path or a mapping")
            return Dependencies()
        try:
            text, file = self._file(node)
            return from_conda(parse_conda(text, file, findings=self._findings, read=self._read), self._findings)
        except InvalidInput as problem:
            self._findings.add(problem)
            return Dependencies()

    def requirements(self) -> Dependencies:
        node = self._fields.node("requirements", "a path or a list")
        if node is None:
            return Dependencies()
        reader = RequirementsReader(self._findings, self._read)
        if isinstance(node, YamlList):
            for path, line in self._fields.texts("requirements", "requirements"):
                if "\n" in line.text.strip():
                    self._findings.add(InvalidField("one requirement per entry", line.place, path=path))
                else:
                    reader.read_line(re.sub(r"(^|\s+)#.*$", "", line.text.strip()), line.place)
        elif isinstance(node, Scalar) and node.text and (node.kind is Kind.STRING or from_flag(node)):
            try:
                text, file = self._file(node)
                reader.read_file(text, file)
            except InvalidInput as problem:
                self._findings.add(problem)
        else:
            self._fields.wrong("requirements", node, "a path or a list")
        return from_requirements(reader.result())

    def python(self) -> str | None:
        expected = "a version such as 3.11, or a range such as '>=3.10,<3.12'"
        scalar = self._fields.written("python", (Kind.STRING, Kind.FLOAT, Kind.INTEGER), expected)
        if scalar is None:
            return None
        try:
            return parse_python(scalar.text)
        except InvalidPython as error:
            self._fields.wrong("python", scalar, expected, hint=error.hint)
            return None

    def allow_source(self) -> set[str]:
        return {
            name
            for path, scalar in self._fields.texts("allow_source", "package names")
            if (name := self._project(path, scalar)) is not None
        }

    def _project(self, path: str, scalar: Scalar) -> str | None:
        from packaging.utils import canonicalize_name

        if _PROJECT.fullmatch(scalar.text):
            return canonicalize_name(scalar.text)
        hint = "name each package" if scalar.text.startswith(":") else None
        self._findings.add(
            InvalidField("not the name of a package", scalar.place, path=path, found=describe(scalar), hint=hint)
        )
        return None

    def sources(self, found: Sources) -> Sources:
        """The indexes of the files, with those of the document, which give names and packages to the same addresses."""
        default, extra = found.default, list(found.extra)
        names: set[str] = set()
        for path, node in self._fields.list("indexes", "indexes"):
            index, is_default = self._index(path, node, names)
            if index is None:
                continue
            extra = [each for each in extra if each.url.rstrip("/") != index.url.rstrip("/")]
            if is_default:
                default = index
            else:
                if default is not None and default.url.rstrip("/") == index.url.rstrip("/"):
                    default = None
                extra.append(index)
        return Sources(default, tuple(extra), found.no_index)

    def _index(self, path: str, node: Node, names: set[str]) -> tuple[Index | None, bool]:
        if not isinstance(node, YamlMap):
            self._findings.add(
                InvalidField(
                    "Not a valid mapping type.",
                    node.place,
                    path=path,
                    found=describe(node),
                    expected="a mapping with `name` and `url`",
                )
            )
            return None, False
        fields = Fields(node, schema.INDEX, self._findings, path=path)
        name, url = fields.text("name"), fields.text("url")
        packages = [self._project(each, scalar) for each, scalar in fields.texts("packages", "package names")]
        default = fields.flag("default")
        if name is None or url is None:
            return None, False
        if not re.fullmatch(schema.INDEX["properties"]["name"]["pattern"], name.text):
            fields.wrong("name", name, "letters, digits, `.`, `_` and `-`")
        if name.text in names:
            fields.wrong("name", name, "a name that no other index has")
        names.add(name.text)
        if default and packages:
            fields.wrong(
                "packages", node.entries["packages"], "none, as the default index is searched for all packages"
            )
        try:
            address = check_index_url(url.text, url.place, self._findings, name=name.text, path=fields.path("url"))
        except InvalidInput as problem:
            self._findings.add(problem)
            return None, False
        return Index(address, name.text, tuple(each for each in packages if each is not None)), default


def from_requirements(found: Requirements) -> Dependencies:
    """What a requirements file asks for."""
    return Dependencies(
        requirements=found.requirements,
        constraints=found.constraints,
        sources=found.sources,
        allow_source=found.allow_source,
        prereleases=found.prereleases,
    )


def from_conda(definition: CondaDefinition, findings: Findings) -> Dependencies:
    """What a conda file asks for."""
    variables: tuple[tuple[str, str], ...] = ()
    if definition.variables is not None:
        variables = check_variables(definition.variables, findings, path="variables")
    return replace(
        from_requirements(definition.pip),
        requirements=None,
        conda=definition.conda,
        python=definition.conda.python,
        variables=variables,
    )
