"""What resolvers take and give: the one for pip, and the solver for conda below it."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

from mlenv.core.digest import Digest
from mlenv.core.lock import Artifact, LockedPackage
from mlenv.core.platform import Target
from mlenv.core.progress import Progress
from mlenv.core.spec import PUBLIC, Requirement, Sources

if TYPE_CHECKING:
    from mlenv.core.conda_package import CondaPackage
    from mlenv.resolve.conda_request import CondaRequest


class Provided(Struct, frozen=True):
    """
    A project that is there already, and is neither looked for nor installed: conda brings it.

    Attributes:
        name: Normalised (PEP 503).
        wheel: A wheel of its metadata, in the resolver's reach.
    """

    name: str
    wheel: Path


class ResolveRequest(Struct, frozen=True):
    """
    What is asked of a resolver.

    Attributes:
        requirements: What the user asked for, in the user's own lines.
        target: What it must run on.
        seeds: What mlenv adds (`pip`, `setuptools`): no user's line is to blame for these, and a user's line about
            the same package replaces them.
        constraints: Bounds that ask for nothing.
        sources: Indexes.
        allow_source: Normalised names that may be built from source.
        allow_source_auto: Any package without a wheel may be; each is reported.
        prereleases: Pre-releases may be chosen for every package.
        as_of: Files uploaded later are not seen (UTC), or None.
        provided: What is there already: taken at its version, and left out of the answer.
    """

    requirements: tuple[Requirement, ...]
    target: Target
    seeds: tuple[Requirement, ...] = ()
    constraints: tuple[Requirement, ...] = ()
    sources: Sources = PUBLIC
    allow_source: frozenset[str] = frozenset()
    allow_source_auto: bool = False
    prereleases: bool = False
    as_of: datetime | None = None
    provided: tuple[Provided, ...] = ()


class Resolution(Struct, frozen=True):
    """
    What a resolver found.

    Attributes:
        packages: Sorted by name.
        resolver: Its name and version: `uv 0.9.0`.
        built: Wheels that were built here, by digest; the files are the caller's to keep, and vanish with the
            resolver's working directory.
    """

    packages: tuple[LockedPackage, ...]
    resolver: str
    built: Mapping[Digest, Path]


class Resolver(Protocol):
    """Turns requirements into packages."""

    def resolve(self, request: ResolveRequest, *, workdir: Path, progress: Progress) -> Resolution:
        """
        Resolve, using `workdir` (an empty directory that the caller removes) for whatever is made on the way.

        Raises:
            ResolutionFailed: There is no answer; a subclass says which kind of failure, culprit first.
            Unavailable: An index did not answer, or refused.
        """


class CondaSolver(Protocol):
    """Chooses conda packages. `mlenv.resolve.conda.CondaResolver` is the one there is."""

    @property
    def name(self) -> str:
        """Its name and version: `py-rattler 0.28.0`."""

    def channels(self, request: "CondaRequest") -> tuple[str, ...]:
        """The addresses that a request leads to, in order, without asking any. Raises as `solve`."""

    def own_channels(self) -> tuple[str, ...]:
        """Addresses of the channels that this machine's own settings name."""

    def solve(self, request: "CondaRequest", *, progress: Progress) -> "tuple[CondaPackage, ...]":
        """
        Every package that is to be installed, sorted by name.

        Raises:
            ResolutionFailed: There is no answer; a subclass says which kind of failure, culprit first.
            InvalidInput: What is asked for can't be.
            Unavailable: A channel did not answer, or refused.
        """


class Fetcher(Protocol):
    """Brings artifacts from where a lock says they are."""

    def fetch(self, artifact: Artifact, sources: Sources) -> Iterator[bytes]:
        """
        The artifact's bytes as they come, unchecked: the caller checks size and digest.

        Args:
            artifact: What to bring; its `url` is set.
            sources: The spec's indexes, by which credentials are found.

        Raises:
            Unavailable: It is not there, or credentials were refused, or nothing came within the timeout.
        """

    def size_of(self, url: str, sources: Sources) -> int:
        """How many bytes are at a URL. Raises `Unavailable` as `fetch` does."""
