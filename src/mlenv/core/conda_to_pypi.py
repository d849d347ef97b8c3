"""
A conda file's packages as PyPI has them, for `resolver: pypi`: names by `pypi_names`, bounds as PEP 440 writes them.

What means something else there, or nothing, is refused; what only conda knows, a channel and a build, is left out and
told.
"""

from collections.abc import Sequence

from msgspec import Struct
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name

from mlenv.core.match_spec import InvalidMatchSpec, MatchSpec, parse_match_spec
from mlenv.core.pypi_names import MISSING, RENAMED, SAME
from mlenv.core.spec import CondaFile, Requirement
from mlenv.errors import InvalidInput


class NotOnPypi(InvalidInput):
    """
    Packages of a conda file that PyPI does not have, or not under a name that is known here.

    Attributes:
        packages: Each line of the conda file, and why it has no counterpart.
    """

    hint = (
        "put what PyPI has under `pip:`, by its name there, leave out what is not needed, or take away `resolver: pypi`"
    )

    def __init__(self, packages: Sequence[tuple[Requirement, str]]) -> None:
        lines = [f"{requirement}: {why}" for requirement, why in packages]
        super().__init__("\n  ".join([f"`resolver: pypi` can't take {_count(len(lines))} from PyPI", *lines]))
        self.packages = tuple(packages)


class Replaced(Struct, frozen=True):
    """
    One package of a conda file, as it is taken from PyPI.

    Attributes:
        asked: The line of the conda file.
        taken: PEP 508, from the same line.
        lost: What the line says and PyPI has no word for: `the channel pytorch`, `the build *cuda*`.
    """

    asked: Requirement
    taken: Requirement
    lost: tuple[str, ...] = ()

    def __str__(self) -> str:
        without = f", without {' and '.join(self.lost)}" if self.lost else ""
        return f"{self.asked} is taken from PyPI as {self.taken.text}{without}"


def to_pypi(conda: CondaFile) -> tuple[Replaced, ...]:
    """
    The packages of a conda file other than Python, as PyPI has them, in their order.

    Raises:
        NotOnPypi: There are some without a counterpart; all of them are told.
    """
    replaced: list[Replaced] = []
    refused: list[tuple[Requirement, str]] = []
    for requirement in conda.packages:
        try:
            replaced.append(_replace(requirement))
        except InvalidMatchSpec as error:
            refused.append((requirement, error.why))
        except ValueError as error:
            refused.append((requirement, str(error)))
    if refused:
        raise NotOnPypi(refused)
    return tuple(replaced)


def _replace(requirement: Requirement) -> Replaced:
    """Raises `ValueError` or `InvalidMatchSpec`, with the reason."""
    spec = parse_match_spec(requirement.text)
    name = _name(spec)
    if conditions := [key for key, _ in spec.others]:
        raise ValueError(f"`{conditions[0]}` is a condition for conda packages alone")
    lost = [f"the channel {spec.channel}"] if spec.channel else []
    lost += [f"the directory {spec.subdir}"] if spec.subdir else []
    lost += [f"the build {spec.build}"] if spec.build else []
    lost += [f"the build number {spec.build_number}"] if spec.build_number else []
    return Replaced(requirement, Requirement(f"{name}{_bounds(spec)}", requirement.origin), tuple(lost))


def _name(spec: MatchSpec) -> str:
    if spec.url is not None:
        raise ValueError("the file of a conda package")
    if spec.name in RENAMED:
        return RENAMED[spec.name]
    if spec.name in SAME:
        return canonicalize_name(spec.name)
    if spec.name.startswith("r-"):
        raise ValueError(MISSING["r"])
    raise ValueError(MISSING.get(spec.name, "not among the conda packages whose name on PyPI is known here"))


def _bounds(spec: MatchSpec) -> str:
    """Conda's bounds in PEP 440's words. Raises `ValueError`."""
    if spec.version is None:
        return ""
    if "|" in spec.version:
        raise ValueError("one version or another (`|`) is nothing that pip can be asked for")
    return ",".join(_bound(each) for each in spec.version.split(",") if each != "*")


def _bound(bound: str) -> str:
    text = bound if bound[0] in "=!<>~" else f"=={bound}"
    # NOTE: conda's `0.22.2.post1.*` is 0.22.2.post1 and what begins with it, which on PyPI nothing else does.
    for each in (text, text.removesuffix(".*")):
        try:
            return str(SpecifierSet(each))
        except InvalidSpecifier:
            continue
    raise ValueError(f"`{bound}` is no version on PyPI (PEP 440)")


def _count(number: int) -> str:
    return "one package" if number == 1 else f"{number} packages"
