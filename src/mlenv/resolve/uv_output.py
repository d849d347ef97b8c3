"""What uv found, read: `pylock.toml` (PEP 751) for the files, and the annotated list for who needs whom."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import tomli
from msgspec import Struct
from packaging.utils import canonicalize_name

from mlenv.core.platform import Target
from mlenv.core.redact import without_credentials
from mlenv.core.wheel_tags import best_wheel
from mlenv.errors import MlenvError
from mlenv.resolve.uv_input import PROJECT

_ANNOTATED: Final = re.compile(
    r"(?P<name>[\w.-]+)(?:\[[^\]]*\])?\s*(?:===?|@)[^#]*?(?:\s#\s+(?:via|from)\s+(?P<via>.*))?"
)


class UnreadableAnswer(MlenvError):
    """uv wrote something that this version of mlenv does not understand."""

    hint = "report this, with what `uv --version` says; meanwhile an older or newer uv may do"


class FoundFile(Struct, frozen=True):
    """
    A file in uv's answer.

    Attributes:
        size: In bytes, or None where the index does not say.
        sha256: Or None where the index does not say.
    """

    filename: str
    url: str
    size: int | None
    sha256: str | None


class Found(Struct, frozen=True):
    """
    A package in uv's answer.

    Attributes:
        wheel: The wheel that fits the target best; None if it has to be built.
        source: What to build it from otherwise.
    """

    name: str
    version: str
    wheel: FoundFile | None
    source: FoundFile | None


def read_pylock(
    text: str, target: Target, hashes: Mapping[str, frozenset[str]] = MappingProxyType({})
) -> tuple[Found, ...]:
    """
    The packages, sorted by name.

    Args:
        hashes: What files should have for a hash, by the name of their project: of its wheels, one of these is taken if it fits.

    Raises:
        UnreadableAnswer: It is not what uv writes.
    """
    try:
        document = tomli.loads(text)
        found = [_package(each, target, hashes) for each in document.get("packages", ())]
    except (tomli.TOMLDecodeError, KeyError, TypeError, AttributeError) as error:
        raise UnreadableAnswer(f"uv wrote a pylock.toml that can't be read: {error!r}") from error
    return tuple(sorted(found, key=lambda each: each.name))


def read_edges(text: str) -> Mapping[str, tuple[str, ...]]:
    """
    What each package needs, from uv's list in the style `--annotation-style line`.

    Each line names a package and, behind `# via`, who needs it.
    """
    needs: dict[str, set[str]] = {}
    for line in text.splitlines():
        match = _ANNOTATED.fullmatch(line.strip())
        if match is None:
            continue
        name = canonicalize_name(match["name"])
        for parent in (match["via"] or "").split(","):
            word = parent.strip().partition(" ")[0].partition("[")[0]
            if word and not word.startswith("-") and (owner := canonicalize_name(word)) not in (name, PROJECT):
                needs.setdefault(owner, set()).add(name)
    return {name: tuple(sorted(each)) for name, each in needs.items()}


def _package(entry: Mapping[str, Any], target: Target, hashes: Mapping[str, frozenset[str]]) -> Found:
    name = canonicalize_name(entry["name"])
    wheels = {file.filename: file for file in map(_file, entry.get("wheels", ()))}
    source = _file(entry["sdist"]) if "sdist" in entry else None
    if "archive" in entry:
        archive = _file(entry["archive"])
        if archive.filename.endswith(".whl"):
            wheels = {archive.filename: archive}
        else:
            source = archive
    best = best_wheel(wheels, target)
    if name in hashes:
        listed = [filename for filename, file in wheels.items() if f"sha256:{file.sha256}" in hashes[name]]
        best = best_wheel(listed, target) or best
    version = entry.get("version")
    if version is None:
        raise UnreadableAnswer(f"uv found {name}, but no version of it")
    return Found(name, version, wheels[best] if best else None, source)


def _file(entry: Mapping[str, Any]) -> FoundFile:
    url = without_credentials(entry["url"])
    filename = entry.get("name") or unquote(urlsplit(url).path.rsplit("/", 1)[-1])
    size = entry.get("size")
    return FoundFile(filename, url, size if isinstance(size, int) else None, entry.get("hashes", {}).get("sha256"))
