"""What an index says of one project: its files (PEP 503, PEP 691, PEP 700). Read only to explain a failure."""

import json
from collections.abc import Iterable
from html.parser import HTMLParser
from typing import Any, Final
from urllib.parse import unquote, urldefrag, urljoin

from msgspec import Struct
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.tags import Tag
from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import Version

from mlenv.core.spec import Index, Sources
from mlenv.errors import Unavailable
from mlenv.resolve.index_http import HttpFetcher

_ACCEPT: Final = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
_LIMIT: Final = 1 << 26


class IndexFile(Struct, frozen=True):
    """
    One file of a project.

    Attributes:
        tags: What a wheel runs on; empty for source.
        python: The minor versions its `Requires-Python` admits, or None for any.
        yanked: Withdrawn (PEP 592).
    """

    filename: str
    version: Version
    tags: frozenset[Tag]
    requires_python: SpecifierSet | None
    yanked: bool

    @property
    def is_wheel(self) -> bool:
        """Whether it is a wheel, not source."""
        return bool(self.tags)

    def admits(self, python: str) -> bool:
        """Whether its `Requires-Python` admits this version; a bare minor version counts as its late releases."""
        if self.requires_python is None:
            return True
        full = python if python.count(".") == 2 else f"{python}.99"
        return self.requires_python.contains(full, prereleases=True)


class ProjectPage(Struct, frozen=True):
    """All files of a project."""

    name: str
    files: tuple[IndexFile, ...]

    def versions(self, *, yanked: bool = False) -> list[Version]:
        """Its versions, the newest first; those that were withdrawn only if asked for."""
        return sorted({each.version for each in self.files if yanked or not each.yanked}, reverse=True)

    def matching(self, specifier: str) -> tuple[IndexFile, ...]:
        """The files of versions within bounds; all if the bounds can't be read. Pre-releases only if named."""
        try:
            bounds = SpecifierSet(specifier)
        except InvalidSpecifier:
            return self.files
        exact = any(each.operator in ("==", "===") for each in bounds)
        found = [each for each in self.files if not each.yanked or exact]
        kept = tuple(each for each in found if bounds.contains(each.version))
        return kept or tuple(each for each in found if bounds.contains(each.version, prereleases=True))


def read_page(name: str, sources: Sources, public: str | None, fetcher: HttpFetcher) -> ProjectPage | None:
    """The project's page on the first index that has it, or None; an index that does not answer counts as without it."""
    for index in _order(name, sources, public):
        base = index.url.rstrip("/") + f"/{canonicalize_name(name)}/"
        if index.url.startswith("file:"):
            base += "index.html"
        try:
            data = fetcher.read(base, sources, accept=_ACCEPT, limit=_LIMIT)
        except Unavailable:
            continue
        files = tuple(_files(name, _entries(data, base)))
        if files:
            return ProjectPage(name, files)
    return None


def _order(name: str, sources: Sources, public: str | None) -> Iterable[Index]:
    """The indexes in which a project is looked for, as uv does: a pinned one alone, else the extra ones first."""
    pinned = [each for each in sources.extra if name in [canonicalize_name(listed) for listed in each.packages]]
    if pinned:
        return pinned
    default = sources.default or (Index(public) if public else None)
    if sources.no_index:
        return []
    return [each for each in sources.extra if not each.flat and not each.packages] + ([default] if default else [])


def _entries(data: bytes, base: str) -> Iterable[dict[str, Any]]:
    try:
        document = json.loads(data)
        return [each for each in document["files"] if isinstance(each, dict)]
    except (ValueError, KeyError, TypeError):
        parser = _Links(base)
        parser.feed(data.decode("utf-8", "replace"))
        return parser.entries


class _Links(HTMLParser):
    """The anchors of an HTML page (PEP 503)."""

    def __init__(self, base: str) -> None:
        super().__init__()
        self._base = base
        self.entries: list[dict[str, Any]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "a" and (href := found.get("href")):
            path = urldefrag(urljoin(self._base, href)).url
            self.entries.append(
                {
                    "filename": unquote(path.rsplit("/", 1)[-1]),
                    "requires-python": found.get("data-requires-python"),
                    "yanked": "data-yanked" in found,
                }
            )


def _files(name: str, entries: Iterable[dict[str, Any]]) -> Iterable[IndexFile]:
    for entry in entries:
        filename = str(entry.get("filename", ""))
        try:
            if filename.endswith(".whl"):
                owner, version, _, tags = parse_wheel_filename(filename)
            else:
                owner, version = parse_sdist_filename(filename)
                tags = frozenset()
        except (InvalidWheelFilename, InvalidSdistFilename):
            continue
        if owner == canonicalize_name(name):
            bounds = _specifier(entry.get("requires-python"))
            yield IndexFile(filename, version, frozenset(tags), bounds, bool(entry.get("yanked")))


def _specifier(text: object) -> SpecifierSet | None:
    try:
        return SpecifierSet(text) if isinstance(text, str) else None
    except InvalidSpecifier:
        return None
