"""What a file asks to have installed, whatever kind of file it is."""

from msgspec import Struct

from mlenv.core.spec import PUBLIC, CondaFile, Requirement, Sources


class Dependencies(Struct, frozen=True):
    """
    What is installed on top of the base, and how it is chosen. The fields are those of `core.spec.Spec`.

    Attributes:
        variables: Environment variables that come with it (a conda file's `variables`).
    """

    conda: CondaFile | None = None
    requirements: tuple[Requirement, ...] | None = None
    constraints: tuple[Requirement, ...] = ()
    pylock: str | None = None
    sources: Sources = PUBLIC
    python: str | None = None
    allow_source: tuple[str, ...] = ()
    prereleases: bool = False
    variables: tuple[tuple[str, str], ...] = ()
