"""Conda environment files (conda documentation, "Managing environments"), as data and as text."""

import re
from typing import Final

from msgspec import Struct

from mlenv.api.files import Read, read_text
from mlenv.api.problems import CredentialInUrl, FileProblem, Findings, InvalidField, InvalidLine, Place
from mlenv.api.python_version import InvalidPython, both, python_from_conda
from mlenv.api.requirements import Requirements, RequirementsReader, logical_lines
from mlenv.api.yaml_text import Kind, Node, Scalar, YamlList, YamlMap, describe, parse_yaml, to_plain
from mlenv.core.match_spec import InvalidMatchSpec, parse_match_spec
from mlenv.core.redact import has_credentials, redact
from mlenv.core.spec import CondaFile, Requirement, canonical_json

#: What pip and the interpreter bring along: a file with these only needs no conda.
_NO_CONDA: Final = frozenset(["python", "pip", "setuptools", "wheel"])
_SECTIONS: Final = frozenset(["name", "channels", "dependencies", "variables", "prefix"])
_MATCH_SPEC: Final = re.compile(
    r"(?:(?P<channel>[^\s\[\]]+)::)?(?P<name>[A-Za-z0-9_.][A-Za-z0-9_.-]*)(?P<rest>[\s=<>!~\[*].*)?"
)
_VERSION_KEY: Final = re.compile(r"\[.*?version\s*=\s*(['\"])(?P<version>.*?)\1.*\]")


class CondaDefinition(Struct, frozen=True):
    """
    A conda file with what it says beyond packages.

    Attributes:
        conda: The file itself.
        name: The name it gives to its environment, or None.
        variables: Its `variables` section, with where each stands.
        pip: Its `pip:` section; its requirements are `conda.pip`, too.
    """

    conda: CondaFile
    name: str | None
    variables: YamlMap | None
    pip: Requirements


def parse_conda(text: str, file: str, *, findings: Findings, read: Read = read_text) -> CondaDefinition:
    """
    Read a conda environment file.

    Args:
        text: Its content.
        file: Its path, as the user named it; files that its `pip:` section includes are relative to it.
        findings: Takes faults in single values, and warnings.
        read: Brings included files.

    Raises:
        InvalidSyntax: It is not YAML.
        FileProblem: It is empty, or no mapping.
    """
    node = parse_yaml(text, file)
    if node is None:
        raise FileProblem("the conda file is empty", Place(file), hint="it needs `dependencies:`, a list")
    if not isinstance(node, YamlMap):
        raise FileProblem("not a conda file", node.place, found=describe(node), expected="a mapping")
    return conda_from_node(node, text, findings=findings, read=read)


def conda_from_node(
    node: YamlMap, text: str | None, *, findings: Findings, read: Read = read_text, path: str = ""
) -> CondaDefinition:
    """
    Read a conda file's data.

    Args:
        node: Its data.
        text: Its text, or None if it stands inside another document.
        findings: Takes faults and warnings.
        read: Brings files that the `pip:` section includes.
        path: The path into the document it stands in: `conda_file`.
    """
    reader = _CondaReader(findings, read, f"{path}." if path else "")
    return reader.read(node, text)


class _CondaReader:
    """Reads one conda file."""

    def __init__(self, findings: Findings, read: Read, prefix: str) -> None:
        self._findings = findings
        self._prefix = prefix
        self._packages: list[Requirement] = []
        self._needs_conda: list[Requirement] = []
        self._python: str | None = None
        self._pip = RequirementsReader(findings, read)

    def read(self, node: YamlMap, text: str | None) -> CondaDefinition:
        for key in node.entries:
            if key not in _SECTIONS:
                self._findings.warn(node.keys[key].place, f"conda ignores the section `{key}`, and so is it here")
        self._dependencies(node)
        pip = self._pip.result()
        name = node.entries.get("name")
        conda = CondaFile(
            document=canonical_json(to_plain(node)),
            text=text if text is not None else to_yaml(node),
            python=self._python,
            packages=tuple(self._packages),
            needs_conda=tuple(self._needs_conda),
            pip=pip.requirements,
            channels=self._channels(node.entries.get("channels")),
        )
        return CondaDefinition(
            conda,
            name.text if isinstance(name, Scalar) and name.kind is not Kind.NULL else None,
            self._variables(node),
            pip,
        )

    def _dependencies(self, node: YamlMap) -> None:
        dependencies = node.entries.get("dependencies")
        if dependencies is None:
            where = node.place
            self._findings.warn(where, "the conda file has no `dependencies`, so nothing is installed")
            return
        if isinstance(dependencies, Scalar) and dependencies.kind is Kind.NULL:
            return
        if not isinstance(dependencies, YamlList):
            self._wrong(dependencies, "dependencies", "a list")
            return
        for number, each in enumerate(dependencies.items):
            path = f"dependencies[{number}]"
            if isinstance(each, YamlMap):
                self._section(each, path)
            elif isinstance(each, YamlList) or each.kind is not Kind.STRING:
                self._wrong(each, path, "a package, as in `numpy=1.26`, or `pip:` with a list")
            else:
                self._package(each, path)

    def _package(self, scalar: Scalar, path: str) -> None:
        spec = scalar.text.strip()
        if "{{" in spec or "{%" in spec:
            self._findings.add(
                InvalidLine(
                    f"not a conda package: {spec!r} looks like an unfilled template",
                    scalar.place,
                    path=self._prefix + path,
                    hint="fill the template in first, or write the version that is meant",
                )
            )
            return
        if has_credentials(spec):
            self._findings.add(CredentialInUrl(scalar.place, path=self._prefix + path, url=repr(redact(spec))))
            return
        try:
            parse_match_spec(spec)
        except InvalidMatchSpec as error:
            self._findings.add(InvalidLine(str(error), scalar.place, path=self._prefix + path, hint=error.hint))
            return
        if "://" in spec.partition("::")[0] and "::" not in spec:
            self._needs_conda.append(Requirement(spec, scalar.place.origin))
            self._packages.append(Requirement(spec, scalar.place.origin))
            return
        match = _MATCH_SPEC.fullmatch(spec)
        if not match:
            self._wrong(scalar, path, "a package, as in `numpy=1.26` or `conda-forge::numpy>=1.26`")
            return
        name = match["name"].lower()
        if name == "python":
            self._pin(match["rest"] or "", scalar, path)
            return
        requirement = Requirement(spec, scalar.place.origin)
        self._packages.append(requirement)
        if name not in _NO_CONDA:
            self._needs_conda.append(requirement)

    def _pin(self, rest: str, scalar: Scalar, path: str) -> None:
        inner = _VERSION_KEY.search(rest)
        version = inner["version"] if inner else re.sub(r"\[.*\]", "", rest)
        try:
            self._python = both(self._python, python_from_conda(version))
        except InvalidPython as error:
            self._findings.add(
                InvalidField(
                    f"a Python that can't be understood: {scalar.text!r}",
                    scalar.place,
                    path=self._prefix + path,
                    hint="write `python=3.11`, `python=3.11.4` or `python>=3.10,<3.12`",
                )
            )
            self._findings.problems[-1].__cause__ = error

    def _section(self, section: YamlMap, path: str) -> None:
        for key, value in section.entries.items():
            where = f"{path}.{key}"
            if key != "pip":
                self._findings.add(
                    InvalidField(
                        f"conda knows no installer {key!r}",
                        section.keys[key].place,
                        path=self._prefix + where,
                        expected="`pip:` with a list, or a package without a colon",
                    )
                )
            elif isinstance(value, YamlList):
                for number, each in enumerate(value.items):
                    self._pip_line(each, f"{where}[{number}]")
            elif not (isinstance(value, Scalar) and value.kind is Kind.NULL):
                self._wrong(value, where, "a list of requirements")

    def _pip_line(self, node: Node, path: str) -> None:
        if not isinstance(node, Scalar) or node.kind is not Kind.STRING:
            self._wrong(node, path, "a requirement, as in `numpy==2.1.0`")
            return
        for line, place in logical_lines(node.text, node.place.file):
            at = Place(place.file, (node.place.line or 1) + (place.line or 1) - 1, node.place.column)
            self._pip.read_line(line, at)

    def _channels(self, node: Node | None) -> tuple[str, ...]:
        if node is None or (isinstance(node, Scalar) and node.kind is Kind.NULL):
            return ()
        channels: list[str] = []
        # NOTE: conda takes a single channel without a list, too.
        for number, each in enumerate(node.items if isinstance(node, YamlList) else (node,)):
            if not isinstance(each, Scalar) or each.kind is not Kind.STRING:
                self._wrong(each, f"channels[{number}]", "a channel, as in `conda-forge`")
            elif has_credentials(each.text):
                path = f"{self._prefix}channels[{number}]"
                self._findings.add(CredentialInUrl(each.place, path=path, url=repr(redact(each.text))))
            else:
                channels.append(each.text)
        return tuple(channels)

    def _variables(self, node: YamlMap) -> YamlMap | None:
        variables = node.entries.get("variables")
        if variables is None or (isinstance(variables, Scalar) and variables.kind is Kind.NULL):
            return None
        if not isinstance(variables, YamlMap):
            self._wrong(variables, "variables", "a mapping")
            return None
        return variables

    def _wrong(self, node: Node, path: str, expected: str) -> None:
        self._findings.add(
            InvalidField(
                "not what a conda file has here",
                node.place,
                path=self._prefix + path,
                found=describe(node),
                expected=expected,
            )
        )


def to_yaml(node: Node) -> str:
    """A document for data that stands inside another one. Text that would read as something else is quoted."""
    from io import StringIO

    from ruamel.yaml import YAML

    dumper = YAML(typ="safe", pure=True)
    dumper.default_flow_style = False
    dumper.version = (1, 1)
    stream = StringIO()
    dumper.dump(to_plain(node), stream)
    return stream.getvalue().removeprefix("%YAML 1.1\n---\n")


def looks_like_conda(node: YamlMap) -> bool:
    """Whether a document is a conda file where an environment file could stand."""
    keys = set(node.entries)
    return bool(keys & {"channels", "dependencies"}) and not keys & {
        "image",
        "build",
        "conda_file",
        "$schema",
        "version",
    }
