"""A spec as JSON: the shape that `Spec.to_dict` gives, and the checks that a file's definition would have to pass."""

import re
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from mlenv.api.conda import parse_conda
from mlenv.api.files import TEXT_LIMIT, TOML_LIMIT
from mlenv.api.problems import CredentialInUrl, Findings, InvalidField, InvalidLine, Place
from mlenv.api.pylock import parse_pylock
from mlenv.api.python_version import InvalidPython, parse_python
from mlenv.api.requirement_line import check_requirement, is_plain
from mlenv.api.requirement_options import check_index_url
from mlenv.api.schema import OWN_FIELDS
from mlenv.api.variables import NAME
from mlenv.core.image_name import is_file_source
from mlenv.core.redact import has_credentials, redact
from mlenv.core.spec import CondaFile, Index, Requirement, Spec
from mlenv.errors import InvalidInput

#: Most requirements, platforms, indexes, variables. More than anybody writes.
_MANY: Final = 5000
_FEW: Final = 100
#: The longest of texts that are no files, in characters.
_LINE: Final = 4096
_VALUE: Final = 65_536
_PROJECT: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_INDEX_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,255}")

Line = Annotated[str, Field(max_length=_LINE)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class RequirementBody(_Part):
    """
    One line that asks for a package.

    `origin` is the file, as its user named it, and the line in it; `hashes` are those of the files that it may bring, sorted.
    """

    text: Line
    origin: tuple[Line, Annotated[int, Field(ge=0, le=10_000_000)]] | None = None
    hashes: Annotated[list[Annotated[str, Field(pattern="^sha256:[0-9a-f]{64}$")]], Field(max_length=_MANY)] = []


class IndexBody(_Part):
    """A package index (PEP 503 or 691), without credentials; `flat` for a page of files."""

    url: Line
    name: Line | None = None
    packages: Annotated[list[Line], Field(max_length=_MANY)] = []
    flat: bool = False


class SourcesBody(_Part):
    """Where packages come from."""

    default: IndexBody | None = None
    extra: Annotated[list[IndexBody], Field(max_length=_FEW)] = []
    no_index: bool = False


class CondaBody(_Part):
    """A conda file: its text, what it says as canonical JSON, and what follows from that."""

    document: Annotated[str, Field(max_length=TEXT_LIMIT)]
    text: Annotated[str, Field(max_length=TEXT_LIMIT)] = ""
    python: Line | None = None
    packages: Annotated[list[RequirementBody], Field(max_length=_MANY)] = []
    needs_conda: Annotated[list[RequirementBody], Field(max_length=_MANY)] = []
    pip: Annotated[list[RequirementBody], Field(max_length=_MANY)] = []
    channels: Annotated[list[Line], Field(max_length=_FEW)] = []


class ContextBody(_Part):
    """A Dockerfile and the directory or URL it is built in. A directory is the user's: no server reads it."""

    path: Annotated[str, Field(min_length=1, max_length=_LINE)]
    dockerfile_path: Annotated[str, Field(min_length=1, max_length=_LINE)] = "Dockerfile"
    digest: Annotated[str, Field(pattern="^sha256:[0-9a-f]{64}$")] | None = None


class RouteBody(_Part):
    """Where an inference server answers."""

    port: Annotated[int, Field(ge=1, le=65535)]
    path: Line


class InferenceBody(_Part):
    """The routes of an inference server inside the image."""

    liveness_route: RouteBody
    readiness_route: RouteBody
    scoring_route: RouteBody


class PlatformBody(_Part):
    """An operating system and an architecture, in OCI's words."""

    os: Literal["linux", "darwin", "windows"]
    architecture: Literal["amd64", "arm64"]


class SpecBody(_Part):
    """The content of a version. Fields that are left out are empty."""

    image: Annotated[str, Field(min_length=1, max_length=_LINE)] | None = None
    build: ContextBody | None = None
    conda: CondaBody | None = None
    requirements: Annotated[list[RequirementBody], Field(max_length=_MANY)] | None = None
    constraints: Annotated[list[RequirementBody], Field(max_length=_MANY)] = []
    pylock: Annotated[str, Field(max_length=TOML_LIMIT)] | None = None
    sources: SourcesBody = Field(default_factory=SourcesBody)
    python: Line | None = None
    environment_variables: Annotated[
        list[tuple[Line, Annotated[str, Field(max_length=_VALUE)]]], Field(max_length=_MANY)
    ] = []
    platforms: Annotated[list[PlatformBody], Field(max_length=_FEW)] = []
    allow_source: Annotated[list[Line], Field(max_length=_MANY)] = []
    prereleases: bool = False
    os_type: Literal["linux", "windows"] = "linux"
    inference_config: InferenceBody | None = None
    cuda: Annotated[str, Field(pattern=OWN_FIELDS["cuda"]["pattern"], max_length=14)] | None = None
    resolver: Literal["conda", "pypi"] = "conda"

    def unchecked(self) -> Spec:
        """The spec, as it came from a server that had checked it."""
        return Spec.from_dict(self.plain())

    def plain(self) -> dict[str, Any]:
        """As `Spec.to_dict` has it."""
        return self.model_dump(exclude_none=True, exclude_unset=True)

    def to_core(self, *, local: bool = False) -> Spec:
        """
        The spec, if a file could have said it.

        Args:
            local: It is this machine's, where a base image or an index may be a file or directory.

        Raises:
            InvalidInput, ExceptionGroup: It has faults.
        """
        spec = self.unchecked()
        findings = Findings()
        _SpecChecker(spec, findings, local=local).check()
        findings.raise_any("the spec")
        return spec


class _SpecChecker:
    """Goes through a spec field by field. What is to be kept as it is must be as the readers of files would keep it."""

    def __init__(self, spec: Spec, findings: Findings, *, local: bool) -> None:
        self._spec, self._findings, self._local = spec, findings, local

    def check(self) -> None:
        """All fields, then the rules between them."""
        spec = self._spec
        self._base()
        self._requirements("spec.requirements", spec.requirements or ())
        self._requirements("spec.constraints", spec.constraints, constraint=True)
        if spec.conda is not None:
            self._conda(spec.conda)
        if spec.pylock is not None:
            try:
                parse_pylock(spec.pylock, "spec.pylock")
            except InvalidInput as problem:
                self._findings.add(problem)
        self._python("spec.python", spec.python)
        self._sources()
        self._variables()
        for name in spec.allow_source:
            self._project("spec.allow_source", name)
        if len(set(spec.platforms)) != len(spec.platforms):
            self._fault("spec.platforms", "a platform stands there twice")
        self._rules()

    def _fault(self, path: str, why: str, *, found: str | None = None, expected: str | None = None) -> None:
        self._findings.add(InvalidField(why, Place(path), found=repr(found) if found else None, expected=expected))

    def _base(self) -> None:
        spec = self._spec
        if spec.image is not None:
            if has_credentials(spec.image):
                self._findings.add(CredentialInUrl(Place("spec.image"), url=repr(redact(spec.image))))
            elif re.search(r"[\s\x00-\x1f\x7f]", spec.image):
                self._fault("spec.image", "not an image reference", found=spec.image)
            elif is_file_source(spec.image) and not self._local:
                self._fault("spec.image", "a file can't be the base of a server's image", found=spec.image)
        if spec.build is not None:
            for path, text in (("path", spec.build.path), ("dockerfile_path", spec.build.dockerfile_path)):
                if has_credentials(text):
                    self._findings.add(CredentialInUrl(Place(f"spec.build.{path}"), url=repr(redact(text))))
                elif "\0" in text:
                    self._fault(f"spec.build.{path}", "has a NUL character")

    def _requirements(self, path: str, lines: tuple[Requirement, ...], *, constraint: bool = False) -> None:
        for number, line in enumerate(lines):
            place = Place(f"{path}[{number}]")
            if line.hashes and line.hashes != tuple(sorted(set(line.hashes))):
                self._fault(f"{path}[{number}].hashes", "not sorted, each once")
            if is_plain(line.text):
                continue
            try:
                kept = check_requirement(line.text, place, Findings(), constraint=constraint)
                if kept.text != line.text:
                    self._findings.add(InvalidLine(f"not as it would be kept: {kept.text!r}", place))
            except InvalidInput as problem:
                self._findings.add(problem)

    def _conda(self, conda: CondaFile) -> None:
        """The text is read again, and must say what the spec says it says: what is shown is what is installed."""
        inner = Findings()
        files: list[str] = []

        def no_file(path: object, asked: Place, *, limit: int = TEXT_LIMIT) -> str:
            files.append(str(path))
            return ""

        try:
            read = parse_conda(conda.text, "spec.conda.text", findings=inner, read=no_file).conda
        except InvalidInput as problem:
            self._findings.add(problem)
            return
        for fault in inner.problems:
            self._findings.add(fault)
        if inner.problems:
            return
        # NOTE: requirements that it includes from other files are not in its text, and are checked by themselves.
        pip_differs = read.pip != conda.pip if not files else not _within(read.pip, conda.pip)
        if pip_differs or any(
            getattr(read, each) != getattr(conda, each)
            for each in ("document", "python", "packages", "needs_conda", "channels")
        ):
            self._fault("spec.conda", "`text` says something else than the other fields")
        self._requirements("spec.conda.pip", conda.pip)

    def _python(self, path: str, text: str | None) -> None:
        if text is not None:
            try:
                parse_python(text)
            except InvalidPython as error:
                self._fault(path, str(error))

    def _sources(self) -> None:
        sources = self._spec.sources
        named = [("spec.sources.default", sources.default)] if sources.default else []
        named += [(f"spec.sources.extra[{number}]", each) for number, each in enumerate(sources.extra)]
        names = [each.name for _, each in named if each is not None and each.name is not None]
        if len(set(names)) != len(names):
            self._fault("spec.sources", "two indexes have the same name")
        for path, index in named:
            assert index is not None
            self._index(path, index)

    def _index(self, path: str, index: Index) -> None:
        if index.name is not None and not _INDEX_NAME.fullmatch(index.name):
            self._fault(f"{path}.name", "not the name of an index", found=index.name)
        try:
            if check_index_url(index.url, Place(f"{path}.url"), self._findings, name=index.name or "") != index.url:
                self._fault(f"{path}.url", "not as it would be kept")
        except InvalidInput as problem:
            self._findings.add(problem)
        if index.url.lower().startswith("file:") and not self._local:
            self._fault(f"{path}.url", "a directory can't be an index of a server", expected="http:// or https://")
        for name in index.packages:
            self._project(f"{path}.packages", name)

    def _variables(self) -> None:
        names = [name for name, _ in self._spec.environment_variables]
        if names != sorted(set(names)):
            self._fault("spec.environment_variables", "not sorted by name, each name once")
        for name, value in self._spec.environment_variables:
            if not NAME.fullmatch(name):
                self._fault("spec.environment_variables", "not the name of an environment variable", found=name)
            elif has_credentials(value):
                self._findings.add(CredentialInUrl(Place(f"spec.environment_variables.{name}")))
            elif "\0" in value:
                self._fault(f"spec.environment_variables.{name}", "has a NUL character")

    def _project(self, path: str, name: str) -> None:
        if not _PROJECT.fullmatch(name):
            self._fault(path, "not the normalised name of a package", found=name)

    def _rules(self) -> None:
        """What fields mean for each other, as in the environment YAML."""
        spec = self._spec
        if spec.image is not None and spec.build is not None:
            self._fault("spec.build", "Docker image or Dockerfile should be provided not both")
        installed = [each for each in ("conda", "requirements", "pylock") if getattr(spec, each) is not None]
        if len(installed) > 1:
            self._fault(f"spec.{installed[1]}", f"can't be given together with {installed[0]}")
        if spec.build is not None and (installed or spec.python is not None):
            self._fault("spec.build", "can't be given together with what is installed without it")
        if spec.conda is None and (spec.cuda is not None or spec.resolver != "conda"):
            self._fault("spec.resolver", "`cuda` and `resolver` say how a conda file is solved, and there is none")
        if spec.image is None and spec.build is None and not installed and spec.python is None:
            self._fault("spec.image", "Docker image or Dockerfile is required for environments")


def _within(some: tuple[Requirement, ...], others: tuple[Requirement, ...]) -> bool:
    """Whether these lines stand among the others, in their order."""
    rest = iter(others)
    return all(each in rest for each in some)
