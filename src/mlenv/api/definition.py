"""
A definition from whatever a user has: an environment YAML, a conda file, `requirements.txt`, `pyproject.toml`,
`pylock.toml`, or nothing but flags.
"""

import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Final, TypedDict, Unpack

from mlenv.api.conda import conda_from_node, looks_like_conda
from mlenv.api.dependencies import Dependencies
from mlenv.api.environment_dependencies import from_conda, from_requirements
from mlenv.api.environment_yaml import read_environment
from mlenv.api.files import TEXT_LIMIT, TOML_LIMIT, Read, read_text, shown
from mlenv.api.overrides import apply_flags, flag_document
from mlenv.api.problems import FileProblem, Findings, InvalidField, Place
from mlenv.api.requirements import parse_requirements
from mlenv.api.spec_document import definition_of_spec, looks_like_spec
from mlenv.api.yaml_text import Scalar, YamlMap, describe, parse_yaml
from mlenv.core.environment import Definition
from mlenv.core.reference import InvalidName, parse_name
from mlenv.errors import InvalidInput


class FileKind(StrEnum):
    """What a definition's file is."""

    ENVIRONMENT = "an environment YAML"
    CONDA = "a conda file"
    REQUIREMENTS = "a requirements file"
    PYPROJECT = "a pyproject.toml"
    PYLOCK = "a pylock.toml"
    SPEC = "a spec that was attached to an image"


class Overrides(TypedDict, total=False):
    """
    What the command line says over the file, or without one. None and empty stand for "not given".

    Attributes:
        name, version, description, image, os_type: As in the YAML.
        default_name: The name where the file is not an environment YAML and names nothing itself: a conda file's own
            name comes first.
        conda_file: A conda file, from the working directory.
        build_context, dockerfile_path: `build.path`, from the working directory, and `build.dockerfile_path`.
        tags: Instead of the file's tags.
        set: `a.b=c` each: set in the YAML's data before it is checked.
        extras, groups: Of a `pyproject.toml`.
        python: Instead of what the file asks for.
        allow_source: Beside those of the file.
    """

    name: str | None
    default_name: str | None
    version: str | None
    description: str | None
    image: str | None
    conda_file: Path | str | None
    build_context: Path | str | None
    dockerfile_path: str | None
    os_type: str | None
    tags: Mapping[str, str] | None
    set: tuple[str, ...]
    extras: tuple[str, ...]
    groups: tuple[str, ...]
    python: str | None
    allow_source: tuple[str, ...]


_YAML: Final = (".yml", ".yaml")
_FOREIGN: Final = {
    "setup.py": "write the dependencies into pyproject.toml or requirements.txt",
    "setup.cfg": "write the dependencies into pyproject.toml or requirements.txt",
    "pipfile": "export them: `pipenv requirements > requirements.txt`",
    "pipfile.lock": "export them: `pipenv requirements > requirements.txt`",
    "poetry.lock": "export them: `poetry export -o requirements.txt`",
    "uv.lock": "export it: `uv export --format pylock.toml -o pylock.toml`",
    "pixi.lock": "pass the conda file or the pyproject.toml it was made from",
    "dockerfile": "pass the directory it is in with `--build-context`",
}
_LIKELY: Final = ("environment.yml", "environment.yaml", "env.yml", "conda.yml", "conda.yaml", "pylock.toml",
                  "pyproject.toml", "requirements.txt")  # fmt: skip


def load_definition(path: Path | None, *, read: Read = read_text, **overrides: Unpack[Overrides]) -> Definition:
    """
    Read a definition from a file of any known kind, or from flags alone.

    Args:
        path: The file; None if there is none.
        read: Brings files; the default reads the disk.
        overrides: What the command line says, see `Overrides`.

    Raises:
        InvalidDefinition: One fault, a leaf of `mlenv.api.problems` or of `core`.
        ExceptionGroup: Several faults, each an `InvalidInput`.
    """
    if path is None:
        return definition_from_flags(read=read, **overrides)
    name = shown(path)
    if path.is_dir():
        likely = [each for each in _LIKELY if (path / each).is_file()]
        raise FileProblem(
            "is a directory, expected a file",
            Place(name),
            hint=f"pass one of its files: {', '.join(likely)}" if likely else None,
        )
    large = path.suffix.lower() in {".toml", ".json"}
    text = read(path, Place(name), limit=TOML_LIMIT if large else TEXT_LIMIT)
    return parse_definition(text, name, read=read, **overrides)


def definition_from_flags(*, read: Read = read_text, **overrides: Unpack[Overrides]) -> Definition:
    """A definition without a file: `--name e --image i --conda-file conda.yml`. Raises as `load_definition`."""
    findings = Findings()
    document = apply_flags(flag_document("the command line"), overrides, findings)
    _refuse_extras(None, overrides, findings)
    # Azure's rule that there is an image is for its own files; a conda file alone is enough for a local run.
    needs_image = not overrides.get("conda_file")
    definition = read_environment(document, base=Path(), findings=findings, read=read, needs_image=needs_image)
    return _finish(definition, findings, "the command line")


def parse_definition(text: str, file: str, *, read: Read = read_text, **overrides: Unpack[Overrides]) -> Definition:
    """
    Read a definition from text.

    Args:
        text: The content of the file.
        file: Its path, as the user named it: its name helps to tell what it is, and other files are relative to it.
        read: Brings those; `files.no_files` refuses them.
        overrides: What the command line says, see `Overrides`.

    Raises:
        InvalidDefinition, ExceptionGroup: As `load_definition`.
    """
    findings = Findings()
    kind, document = detect(text, file)
    _refuse_extras(kind, overrides, findings)
    if kind is FileKind.SPEC:
        return _finish(definition_of_spec(text, file, overrides, findings), findings, file)
    base = Path(file).parent
    if kind is FileKind.ENVIRONMENT:
        assert document is not None
        document = apply_flags(document, overrides, findings)
        definition = read_environment(document, base=base, findings=findings, read=read)
        return _finish(definition, findings, file)
    try:
        direct = _direct(kind, text, file, document, findings, read, overrides)
    except InvalidInput as problem:
        findings.add(problem)
        direct = Dependencies(requirements=())
    if not overrides.get("name") and (default := overrides.get("default_name")):
        overrides["name"] = _own_name(document) or default
    flags = apply_flags(flag_document(file), overrides, findings)
    definition = read_environment(flags, base=Path(), findings=findings, read=read, direct=direct)
    return _finish(definition, findings, file)


def _own_name(document: YamlMap | None) -> str | None:
    """The name that a conda file gives itself, if it is one that an environment can have."""
    name = document.entries.get("name") if document is not None else None
    try:
        return parse_name(name.text) if isinstance(name, Scalar) and name.text else None
    except InvalidName:
        return None


def _finish(definition: Definition | None, findings: Findings, what: str) -> Definition:
    findings.raise_any(what)
    assert definition is not None
    return definition


def _direct(
    kind: FileKind,
    text: str,
    file: str,
    document: YamlMap | None,
    findings: Findings,
    read: Read,
    overrides: Overrides,
) -> Dependencies:
    """The dependencies of a file that is not an environment YAML."""
    if kind is FileKind.CONDA:
        assert document is not None
        return from_conda(conda_from_node(document, text, findings=findings, read=read), findings)
    if kind is FileKind.REQUIREMENTS:
        return from_requirements(parse_requirements(text, file, findings=findings, read=read))
    if kind is FileKind.PYPROJECT:
        from mlenv.api.pyproject import parse_pyproject

        return parse_pyproject(
            text, file, findings=findings, extras=overrides.get("extras", ()), groups=overrides.get("groups", ())
        )
    from mlenv.api.pylock import parse_pylock

    return parse_pylock(text, file)


def _refuse_extras(kind: FileKind | None, overrides: Overrides, findings: Findings) -> None:
    if kind is FileKind.PYPROJECT:
        return
    for key in ("extras", "groups"):
        if overrides.get(key):
            flag = Place(f"--{key.removesuffix('s')}")
            findings.add(InvalidField(f"{key} are chosen from a pyproject.toml; this is {kind or 'no file'}", flag))


def detect(text: str, file: str) -> tuple[FileKind, YamlMap | None]:
    """
    Tell what a file is, by its name and, where that doesn't say, by its content.

    Returns:
        The kind, and the data if it is YAML.

    Raises:
        FileProblem: It is nothing that is known.
        InvalidSyntax: It is YAML by name, and isn't by content.
    """
    name = Path(file).name.lower()
    if hint := _FOREIGN.get(name):
        raise FileProblem("not a definition that can be read", Place(file), hint=hint)
    if name.endswith(".toml"):
        return _detect_toml(text, name, file), None
    if re.search(r"\.(txt|in)$", name) or (name.startswith("requirements") and not name.endswith(_YAML)):
        return FileKind.REQUIREMENTS, None
    if name.endswith(".json") and looks_like_spec(text):
        return FileKind.SPEC, None
    node = parse_yaml(text, file)
    if node is None:
        raise FileProblem("the file is empty", Place(file), hint="it needs at least `name:` and `image:`")
    if not isinstance(node, YamlMap):
        raise FileProblem(
            "not an environment definition", node.place, found=describe(node), expected="a mapping",
            hint=None if name.endswith(_YAML) else
            "known are environment YAML, conda files, requirements (.txt, .in), pyproject.toml and pylock.toml",
        )  # fmt: skip
    return (FileKind.CONDA if looks_like_conda(node) else FileKind.ENVIRONMENT), node


def _detect_toml(text: str, name: str, file: str) -> FileKind:
    if re.fullmatch(r"pylock(\.[^.]+)?\.toml", name) or re.search(r"^lock-version\s*=", text, re.MULTILINE):
        return FileKind.PYLOCK
    if name == "pyproject.toml" or re.search(r"^\[(project|dependency-groups)\]", text, re.MULTILINE):
        return FileKind.PYPROJECT
    raise FileProblem(
        "neither a pyproject.toml nor a pylock.toml",
        Place(file),
        hint="name it so, or see that it has [project] or lock-version",
    )
