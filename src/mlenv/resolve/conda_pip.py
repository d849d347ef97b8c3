"""
pip's part on top of conda's: what conda provides counts as installed.

For every Python distribution in a conda package, uv is given a wheel that holds its metadata and nothing else: what asks
for the distribution gets this version, and no other is looked for.
"""

import json
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from email.parser import HeaderParser
from pathlib import Path
from typing import BinaryIO, Final

from msgspec import Struct
from msgspec.structs import replace
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from mlenv.core.conda_archive import PATHS, open_archive
from mlenv.core.conda_package import CondaPackage
from mlenv.core.progress import Progress
from mlenv.core.spec import Requirement
from mlenv.resolve.explanation import Explanation
from mlenv.resolve.failures import ResolutionFailed, VersionConflict
from mlenv.resolve.interface import Provided, Resolution, Resolver, ResolveRequest

#: Where an installed distribution says what it is (PEP 376, and setuptools' older forms).
_METADATA: Final = re.compile(
    r"(?:.*/)?site-packages/[A-Za-z0-9][^/]*(?:\.dist-info/METADATA|\.egg-info(?:/PKG-INFO)?)"
)
#: What counts of the metadata: the rest, the long description first of all, is nothing to a resolver.
_FIELDS: Final = ("Requires-Dist", "Requires-Python", "Provides-Extra")
_LIMIT: Final = 4 << 20


class CondaClash(VersionConflict):
    """
    pip's requirements need another version of what conda provides.

    Attributes:
        project: Its name.
        package: The conda package that has it.
        conda_chain: How conda comes to it, from the user's spec down.
    """

    def __init__(self, message: str, package: CondaPackage, conda_chain: tuple[str, ...], **facts: object) -> None:
        super().__init__(message, **facts)  # type: ignore[arg-type]
        self.package, self.conda_chain = package, conda_chain


class Distribution(Struct, frozen=True):
    """
    A Python distribution that a conda package brings.

    Attributes:
        name: Normalised (PEP 503).
        version: As PEP 440 writes it.
        package: The conda package.
        fields: `Requires-Dist`, `Requires-Python` and `Provides-Extra` of its metadata.
    """

    name: str
    version: str
    package: CondaPackage
    fields: tuple[tuple[str, str], ...] = ()


def may_provide(package: CondaPackage) -> bool:
    """Whether a conda package may bring Python distributions: it is for a Python, or asks for one."""
    needs = {re.split(r"[\s=<>!~\[]", each, maxsplit=1)[0] for each in package.depends}
    return package.noarch == "python" or bool(needs & {"python", "python_abi", "pypy"})


def read_distributions(package: CondaPackage, file: BinaryIO) -> tuple[Distribution, ...]:
    """
    The distributions in a conda package, sorted by name.

    Args:
        package: Which it is.
        file: Its archive.

    Raises:
        InvalidCondaArchive: It is no conda package, or one that may not be installed.
    """
    archive = open_archive(file, filename=package.artifact.filename)
    try:
        listed = json.loads(archive.info[PATHS])["paths"]
        wanted = {each["_path"] for each in listed if _METADATA.fullmatch(each["_path"])}
    except (ValueError, KeyError, TypeError) as error:
        raise archive.fail(f"{PATHS} is no list of paths") from error
    found = {}
    if wanted:
        with archive.translated():
            for member, stream in archive.content():
                if member.name in wanted and member.size <= _LIMIT:
                    text = archive.whole(member, stream).decode(errors="replace")
                    if (each := _distribution(text, package)) is not None:
                        found[each.name] = each
                    wanted.discard(member.name)
                if not wanted:
                    break
    return tuple(found[name] for name in sorted(found))


def _distribution(text: str, package: CondaPackage) -> Distribution | None:
    headers = HeaderParser().parsestr(text)
    try:
        name, version = str(headers["Name"] or ""), str(Version(str(headers["Version"])))
    except InvalidVersion:
        return None
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", name):
        return None
    fields = [(key, " ".join(str(value).split())) for key in _FIELDS for value in headers.get_all(key, ())]
    return Distribution(canonicalize_name(name), version, package, tuple(fields))


def provided_distributions(
    packages: Iterable[CondaPackage], open_package: Callable[[CondaPackage], AbstractContextManager[BinaryIO]]
) -> tuple[Distribution, ...]:
    """
    What a conda solution provides to pip, sorted by name.

    Args:
        packages: The solution.
        open_package: Opens a package's archive; only those that may have distributions are.
    """
    found: dict[str, Distribution] = {}
    for package in packages:
        if may_provide(package):
            with open_package(package) as file:
                found |= {each.name: each for each in read_distributions(package, file)}
    return tuple(found[name] for name in sorted(found))


def write_stubs(distributions: Iterable[Distribution], directory: Path) -> tuple[Provided, ...]:
    """Write a wheel with the metadata of each into a directory, which is made."""
    directory.mkdir(parents=True, exist_ok=True)
    found = []
    for each in distributions:
        stem = f"{each.name.replace('-', '_')}-{each.version}"
        path = directory / f"{stem}-py3-none-any.whl"
        headers = [("Metadata-Version", "2.1"), ("Name", each.name), ("Version", each.version), *each.fields]
        metadata = "".join(f"{key}: {value}\n" for key, value in headers)
        wheel = "Wheel-Version: 1.0\nGenerator: mlenv\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        with zipfile.ZipFile(path, "w") as archive:
            for name, text in (("METADATA", metadata), ("WHEEL", wheel), ("RECORD", "")):
                archive.writestr(zipfile.ZipInfo(f"{stem}.dist-info/{name}"), text)
        found.append(Provided(each.name, path))
    return tuple(found)


def resolve_on_top(
    resolver: Resolver,
    request: ResolveRequest,
    solution: Sequence[CondaPackage],
    distributions: Sequence[Distribution],
    specs: Sequence[Requirement],
    *,
    workdir: Path,
    progress: Progress,
) -> Resolution:
    """
    Resolve pip's requirements with what conda provides.

    Args:
        resolver: pip's.
        request: What is asked of it; mlenv's own seeds that conda provides are left out.
        solution: What conda gives.
        distributions: What of that pip can see.
        specs: The user's lines for conda, for messages.
        workdir: An empty directory, as `Resolver.resolve` has it.
        progress: Where it is told.

    Raises:
        CondaClash: It has an answer only without something that conda provides.
        ResolutionFailed, Unavailable: As `Resolver.resolve`.
    """
    names = {each.name for each in distributions}
    seeds = tuple(each for each in request.seeds if _name(each.text) not in names)
    request = replace(request, seeds=seeds, provided=write_stubs(distributions, workdir / "provided"))
    count = 0

    def attempt(without: set[str]) -> Resolution:
        nonlocal count
        count += 1
        place = workdir / f"on-top-{count}"
        place.mkdir()
        given = tuple(each for each in request.provided if each.name not in without)
        return resolver.resolve(replace(request, provided=given), workdir=place, progress=progress)

    try:
        return attempt(set())
    except ResolutionFailed as failure:
        told = f"{failure}\n{failure.detail or ''}"
        suspects = [each for each in distributions if _mentions(told, each.name)]
        if not suspects:
            raise
        blame = _blame(suspects, attempt)
        if blame is None:
            raise
        raise _clash(failure, *blame, solution, specs, request) from None


def _blame(
    suspects: Sequence[Distribution], attempt: Callable[[set[str]], Resolution]
) -> tuple[Distribution, Resolution] | None:
    """The distribution without which there is an answer, and that answer; the first, where only all of them do."""
    try:
        whole = attempt({each.name for each in suspects})
    except ResolutionFailed:
        return None
    for each in suspects[:6] if len(suspects) > 1 else ():
        try:
            return each, attempt({each.name})
        except ResolutionFailed:
            continue
    return suspects[0], whole


def _clash(
    failure: ResolutionFailed,
    distribution: Distribution,
    instead: Resolution,
    solution: Sequence[CondaPackage],
    specs: Sequence[Requirement],
    request: ResolveRequest,
) -> CondaClash:
    name, package = distribution.name, distribution.package
    chain = _conda_chain(package, solution)
    direct = {_name(each.text): each.text for each in request.requirements}
    way = Explanation(failure.detail or "").chain_to(name, direct) or _pip_chain(name, instead, direct)
    lines = [each for each in request.requirements if way and _name(each.text) == way[0]] or list(failure.lines)
    way = tuple(direct.get(each, each) if at == 0 else each for at, each in enumerate(way))
    own = [each for each in specs if _conda_name(each.text) == _conda_name(chain[0])]
    taken = next((each.version for each in instead.packages if each.name == name), None)
    needs = " → ".join(way[1:]) if len(way) > 1 else ""
    start = f"{lines[0]}: " if lines else ""
    through = f", by {' → '.join(chain)}" if len(chain) > 1 else ""
    where = f" ({own[0]})" if own else ""
    asks = f"needs {needs}, but " if needs else ""
    message = f"{start}{asks}conda gives {package.name} {package.version}{through}{where}"
    hint = "take versions that go together"
    if taken is not None:
        hint = f"ask conda for `{package.name}={taken}`, or pip for what takes {name} {distribution.version}"
    clash = CondaClash(
        message, package, chain, lines=(*lines, *own), chain=(*way, *chain), hint=hint, detail=failure.detail
    )
    clash.project = name
    return clash


def _conda_chain(package: CondaPackage, solution: Sequence[CondaPackage]) -> tuple[str, ...]:
    """The shortest way from a package that the user asked for to this one: the user's spec, then what is needed."""
    by_name = {each.name: each for each in solution}
    ways: list[tuple[str, tuple[str, ...]]] = [
        (each.name, (each.requested,)) for each in solution if each.requested is not None
    ]
    seen = {name for name, _ in ways}
    for at, way in ways:
        if at == package.name:
            return way
        for need in by_name[at].depends:
            name = _conda_name(need)
            if name in by_name and name not in seen:
                seen.add(name)
                ways.append((name, (*way, need)))
    return (f"{package.name} {package.version}",)


def _pip_chain(name: str, resolution: Resolution, starts: Iterable[str]) -> tuple[str, ...]:
    """The shortest way from one of the user's projects to another, by name, where it was resolved without conda's."""
    needs: Mapping[str, tuple[str, ...]] = {each.name: each.requires for each in resolution.packages}
    ways: list[tuple[str, ...]] = [(each,) for each in starts]
    seen = {way[0] for way in ways}
    for way in ways:
        if way[-1] == name:
            return way
        for need in needs.get(way[-1], ()):
            if need not in seen:
                seen.add(need)
                ways.append((*way, need))
    return ()


def _mentions(text: str, name: str) -> bool:
    spelled = re.escape(name).replace(r"\-", "[-_.]")
    return re.search(rf"(?<![\w.-]){spelled}(?![\w-]|\.\w)", text, re.IGNORECASE) is not None


def _name(text: str) -> str:
    match = re.match(r"\s*([A-Za-z0-9][\w.-]*)", text)
    return canonicalize_name(match[1]) if match else ""


def _conda_name(spec: str) -> str:
    return re.split(r"[\s=<>!~\[]", spec.rpartition("::")[2].strip(), maxsplit=1)[0].lower()
