"""What a user wrote: the content of an environment version, without its name, and what makes two of them the same."""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, Self

from msgspec import Struct

from mlenv.core.digest import Digest
from mlenv.core.platform import Platform


class Origin(Struct, frozen=True):
    """Where a line stands in the user's own files: the file as the user named it, and the line, from 1."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class Requirement(Struct, frozen=True):
    """
    One line that asks for a package, as it was written and without its comment.

    Attributes:
        text: A PEP 508 requirement, a conda match spec, or a direct URL, without credentials.
        origin: Where it stands. It does not count when two requirements are compared.
        hashes: Of the files that it may bring, as in `sha256:…`, sorted (`--hash` of pip); empty: of any.
    """

    text: str
    origin: Origin | None = None
    hashes: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        """All of it, as pip reads it."""
        return " ".join((self.text, *(f"--hash={each}" for each in self.hashes)))

    def __str__(self) -> str:
        return f"{self.origin}: {self.text}" if self.origin else self.text

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Requirement):
            return NotImplemented
        return self.text == other.text and self.hashes == other.hashes

    def __hash__(self) -> int:
        return hash(self.text)


class Index(Struct, frozen=True):
    """
    A package index of the user's own.

    Attributes:
        url: Its address (a simple index, PEP 503 or 691), without credentials.
        name: The name under which credentials are looked up, and by which packages are pinned to it.
        packages: Only these packages come from it, and they from nowhere else. Empty: it is searched for all.
        flat: It is a page or directory of files (`--find-links`), not an index.
    """

    url: str
    name: str | None = None
    packages: tuple[str, ...] = ()
    flat: bool = False


class Sources(Struct, frozen=True):
    """
    Where packages come from.

    Attributes:
        default: The index instead of the public one, or None for that.
        extra: Further indexes, searched before the default, in order.
        no_index: Only flat ones are searched.
    """

    default: Index | None = None
    extra: tuple[Index, ...] = ()
    no_index: bool = False


#: Packages come from the public index, and from nowhere else.
PUBLIC: Final = Sources()


class CondaFile(Struct, frozen=True):
    """
    A conda environment file.

    Attributes:
        document: Its content as canonical JSON: what two files are compared by.
        text: Its content as it was written, to be shown again.
        python: What it asks of Python, as a PEP 440 specifier set or a bare version (`3.10`), or None.
        packages: The conda match specs other than `python`; `pip`, `setuptools` and `wheel` among them.
        needs_conda: Those of `packages` that only conda has: everything but `pip`, `setuptools`, `wheel`.
        pip: The lines of its `pip:` section that are requirements.
        channels: Its channels, in order.
    """

    document: str
    text: str
    python: str | None = None
    packages: tuple[Requirement, ...] = ()
    needs_conda: tuple[Requirement, ...] = ()
    pip: tuple[Requirement, ...] = ()
    channels: tuple[str, ...] = ()

    def __eq__(self, other: object) -> bool:
        return self.document == other.document if isinstance(other, CondaFile) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.document)


class BuildContext(Struct, frozen=True):
    """
    A Dockerfile and the directory or URL it is built in.

    Attributes:
        path: Where it came from. It does not count for identity where the digest says what it is.
        dockerfile_path: From the root of the context.
        digest: Of the archive that it was taken into the store as (`build/context.py`); None for one that is elsewhere.
    """

    path: str
    dockerfile_path: str = "Dockerfile"
    digest: Digest | None = None


class Route(Struct, frozen=True):
    """Where an inference server answers: a TCP port and a path."""

    port: int
    path: str


class InferenceConfig(Struct, frozen=True):
    """The routes of an inference server inside the image."""

    liveness_route: Route
    readiness_route: Route
    scoring_route: Route


class Spec(Struct, frozen=True):
    """
    The content of one version. Two versions are the same if their specs have the same `digest`.

    Attributes:
        image: The base image, or the whole image if no dependencies are named.
        build: A Dockerfile context, instead of `image`.
        conda: A conda file on top of `image`.
        requirements: Python requirements on top of `image`, instead of a conda file; None if there are none.
        constraints: Bounds on what the requirements pull in (`-c` of a requirements file).
        pylock: A ready lock (PEP 751) on top of `image`, as text, instead of requirements.
        sources: Indexes.
        python: The Python asked for: `3.11`, `3.11.4`, or a PEP 440 specifier set; None leaves it to the base or host.
        environment_variables: Name and value, sorted by name.
        platforms: What images are built for; empty means the platform of the base.
        allow_source: Packages that may be built from source, normalised (PEP 503).
        prereleases: Pre-releases may be chosen for every package.
        os_type: `linux` or `windows`.
        inference_config: Routes of an inference server.
        cuda: The CUDA that the driver gives where it runs, `12.1`, for conda's choice of packages; None leaves it to
            the base.
        resolver: Who solves the conda file: `conda`; or `pypi`, which takes its packages from PyPI.
    """

    image: str | None = None
    build: BuildContext | None = None
    conda: CondaFile | None = None
    requirements: tuple[Requirement, ...] | None = None
    constraints: tuple[Requirement, ...] = ()
    pylock: str | None = None
    sources: Sources = PUBLIC
    python: str | None = None
    environment_variables: tuple[tuple[str, str], ...] = ()
    platforms: tuple[Platform, ...] = ()
    allow_source: tuple[str, ...] = ()
    prereleases: bool = False
    os_type: str = "linux"
    inference_config: InferenceConfig | None = None
    cuda: str | None = None
    resolver: str = "conda"

    @property
    def pip_requirements(self) -> tuple[Requirement, ...]:
        """What pip is asked for, wherever it is written."""
        return self.conda.pip if self.conda else self.requirements or ()

    @property
    def has_dependencies(self) -> bool:
        """Whether anything is installed on top of the base."""
        return self.conda is not None or self.requirements is not None or self.pylock is not None

    @property
    def needs_conda(self) -> bool:
        """Whether it asks for what only conda has, and that is to come from there."""
        return self.conda is not None and bool(self.conda.needs_conda) and self.resolver == "conda"

    @property
    def wanted_python(self) -> str | None:
        """What it asks of Python: by itself, or else by its conda file."""
        return self.python or (self.conda.python if self.conda else None)

    @property
    def digest(self) -> Digest:
        """The name of what was asked for. Comments, line numbers and key order do not change it."""
        return _digest(self)

    def to_dict(self, *, origins: bool = True) -> dict[str, Any]:
        """Plain data, without empty fields. `origins=False` leaves out what does not count for identity."""
        return _to_plain(self, origins=origins)  # type: ignore[no-any-return]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """What `to_dict` gave."""
        conda = data.get("conda")
        sources = data.get("sources", {})
        inference = data.get("inference_config")
        requirements = data.get("requirements")
        return cls(
            image=data.get("image"),
            build=_build(data["build"]) if "build" in data else None,
            conda=_conda_from_dict(conda) if conda is not None else None,
            requirements=_requirements(requirements) if requirements is not None else None,
            constraints=_requirements(data.get("constraints", ())),
            pylock=data.get("pylock"),
            sources=Sources(
                default=_index(sources["default"]) if "default" in sources else None,
                extra=tuple(_index(each) for each in sources.get("extra", ())),
                no_index=sources.get("no_index", False),
            ),
            python=data.get("python"),
            environment_variables=tuple((name, value) for name, value in data.get("environment_variables", ())),
            platforms=tuple(Platform(**each) for each in data.get("platforms", ())),
            allow_source=tuple(data.get("allow_source", ())),
            prereleases=data.get("prereleases", False),
            os_type=data.get("os_type", "linux"),
            inference_config=InferenceConfig(**{key: Route(**value) for key, value in inference.items()})
            if inference
            else None,
            cuda=data.get("cuda"),
            resolver=data.get("resolver", "conda"),
        )


class WrittenSpec(Struct, frozen=True):
    """
    A spec as it is stored, and sent: most of those that a list has are passed on, and never read.

    Attributes:
        document: `to_dict` as canonical JSON.
        digest: The spec's. Two that have the same are equal.
    """

    document: str
    digest: Digest

    def __eq__(self, other: object) -> bool:
        return self.digest == other.digest if isinstance(other, WrittenSpec) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.digest)

    @classmethod
    def of(cls, spec: Spec) -> Self:
        """A spec, written."""
        return cls(canonical_json(spec.to_dict()), spec.digest)

    def read(self) -> Spec:
        """The spec."""
        return _read(self.document)

    def to_dict(self) -> dict[str, Any]:
        """What the spec's `to_dict` gives. Quicker than the spec itself."""
        return json.loads(self.document)  # type: ignore[no-any-return]


@lru_cache(maxsize=64)
def _read(document: str) -> Spec:
    """It is asked for several times while a version is built."""
    return Spec.from_dict(json.loads(document))


@lru_cache(maxsize=64)
def _digest(spec: Spec) -> Digest:
    """It is asked for several times while a version is registered."""
    return Digest.of(canonical_json(spec.to_dict(origins=False)).encode())


def canonical_json(data: object) -> str:
    """JSON with sorted keys and no spaces, the same text for the same data (after RFC 8785, for what we store)."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def is_deeper(data: object, levels: int) -> bool:
    """Whether JSON data has more levels of objects and lists, one in another. Writers of JSON have limits of their own."""
    if not isinstance(data, dict | list):
        return False
    inner = data.values() if isinstance(data, dict) else data
    return levels == 0 or any(is_deeper(each, levels - 1) for each in inner)


def _to_plain(value: object, *, origins: bool) -> Any:
    """Structs as dicts, tuples as lists; None, False and empty fields left out (an empty tuple is kept by `_keep`)."""
    if isinstance(value, Requirement):
        plain: dict[str, Any] = {"text": value.text}
        if origins and value.origin is not None:
            plain["origin"] = [value.origin.file, value.origin.line]
        if value.hashes:
            plain["hashes"] = list(value.hashes)
        return plain
    if isinstance(value, CondaFile):
        if not origins:
            return {"document": value.document}
        return _fields(value, origins=origins)
    if isinstance(value, Digest):
        return str(value)
    if isinstance(value, BuildContext) and value.digest is not None and not origins:
        return {"digest": str(value.digest), "dockerfile_path": value.dockerfile_path}
    if isinstance(value, Struct):
        return _fields(value, origins=origins)
    if isinstance(value, tuple):
        return [_to_plain(each, origins=origins) for each in value]
    return value


def _fields(value: Struct, *, origins: bool) -> dict[str, Any]:
    names, defaults = value.__struct_fields__, value.__struct_defaults__
    required = len(names) - len(defaults)
    plain: dict[str, Any] = {}
    for number, name in enumerate(names):
        each = getattr(value, name)
        # NOTE: only what differs from the default is written, so that a field added later changes no stored digest.
        if number < required or each != defaults[number - required]:
            plain[name] = _to_plain(each, origins=origins)
    return plain


def _requirements(data: Any) -> tuple[Requirement, ...]:
    return tuple(
        Requirement(each["text"], Origin(*each["origin"]) if "origin" in each else None, tuple(each.get("hashes", ())))
        for each in data
    )


def _build(data: Mapping[str, Any]) -> BuildContext:
    digest = data.get("digest")
    path, dockerfile = data["path"], data.get("dockerfile_path", "Dockerfile")
    return BuildContext(path, dockerfile, Digest.parse(digest) if digest is not None else None)


def _conda_from_dict(data: Mapping[str, Any]) -> CondaFile:
    return CondaFile(
        document=data["document"],
        text=data.get("text", ""),
        python=data.get("python"),
        packages=_requirements(data.get("packages", ())),
        needs_conda=_requirements(data.get("needs_conda", ())),
        pip=_requirements(data.get("pip", ())),
        channels=tuple(data.get("channels", ())),
    )


def _index(data: Mapping[str, Any]) -> Index:
    return Index(data["url"], data.get("name"), tuple(data.get("packages", ())), data.get("flat", False))
