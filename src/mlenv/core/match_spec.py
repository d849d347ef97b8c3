"""
Conda's match specs: `conda-forge::numpy>=1.26,<2`, as conda itself means them, checked and in one spelling.

After CEP 29 ("conda match specification") and, where that leaves room, what conda 24.7 does. What conda drops without
a word, or takes for something that nobody means, is refused.
"""

import json
import re
from typing import Final

from msgspec import Struct
from msgspec.structs import astuple

from mlenv.core.match_version import normalise_number, normalise_version
from mlenv.core.redact import has_credentials, redact
from mlenv.core.spec import CondaFile, Origin, Requirement
from mlenv.errors import InvalidInput

#: The directories of a channel (conda's `KNOWN_SUBDIRS`).
SUBDIRS: Final = frozenset(
    [
        *("noarch", "linux-32", "linux-64", "linux-aarch64", "linux-armv6l", "linux-armv7l", "linux-ppc64"),
        *("linux-ppc64le", "linux-riscv64", "linux-s390x", "osx-64", "osx-arm64", "win-32", "win-64", "win-arm64"),
        *("freebsd-64", "emscripten-wasm32", "wasi-wasm32", "zos-z"),
    ]
)
_LIMIT: Final = 2000
_NAME: Final = re.compile(r"[a-z0-9_.][a-z0-9_.-]*")
_ATOM: Final = r"(?:(?:[=!~<>]=|[<>=])\s*)?[^\s=<>!~,|]+(?:![^\s=<>!~,|]+)?"
_REST: Final = re.compile(rf"(?P<version>{_ATOM}(?:\s*[,|]\s*{_ATOM})*)(?:(?:\s*=\s*|\s+)(?P<build>[^\s=<>~,|;-]+))?")
_BUILD: Final = re.compile(r"[A-Za-z0-9_.+*-]+|\^[A-Za-z0-9_.+*?^$|()\\-]*\$")
_BRACKETS: Final = re.compile(r"(?P<before>[^\[\]]*)\[(?P<inner>[^\[\]]*)\]\s*")
_PAIR: Final = re.compile(
    r"\s*(?P<key>[A-Za-z0-9_-]+)\s*=\s*(?:'(?P<single>[^'\"]*)'|\"(?P<double>[^'\"]*)\"|(?P<bare>[^'\",\s]+))"
    r"\s*(?:,|\s|$)"
)
_SUMS: Final = {"md5": re.compile(r"[0-9a-f]{32}"), "sha256": re.compile(r"[0-9a-f]{64}")}
_KEYS: Final = (
    "version",
    "build",
    "build_number",
    "channel",
    "subdir",
    "url",
    "fn",
    "license",
    "track_features",
    *_SUMS,
)
_FILE: Final = re.compile(r"(?P<name>.+)-(?P<version>[^-]+)-(?P<build>[^-]+)\.(?:conda|tar\.bz2)")
_CHANNEL: Final = re.compile(r"[^\s\[\]'\"*^$<>|;,]+")


class InvalidMatchSpec(InvalidInput):
    """Text that should be a conda match spec, and is not one that means something."""

    def __init__(self, text: str, why: str, hint: str | None = None) -> None:
        shown = redact(text if len(text) <= 200 else f"{text[:200]}…")
        why = why if len(why) <= 200 else f"{why[:80]}…{why[-80:]}"
        super().__init__(f"not a conda package: {shown!r}: {why}")
        self.text, self.why = text, why
        self.hint = hint or "write `numpy`, `numpy=1.26`, `numpy>=1.26,<2` or `conda-forge::numpy=1.26`"


class MatchSpec(Struct, frozen=True):
    """
    What somebody asks of one conda package. Two that mean the same are equal, however they are written.

    Attributes:
        name: In lower case.
        version: None for any, or bounds joined by `,` (and, which binds closer) and `|` (or), with parentheses where
            needed: `3.10.*`, `==1.0`, `>=1.2,<2`, `!=1.2.*`, `~=1.2`, `*`.
        build: The build string, a glob (`*cuda*`), or a regular expression between `^` and `$`.
        build_number: A number, or a bound: `>=2`.
        channel: As it is written, a word or a URL, without its subdirectory; None for any of the file's channels.
        subdir: One of `SUBDIRS`.
        others: Further conditions, sorted: `fn`, `license`, `md5`, `sha256`, `track_features`, `url`.
        text: As it was written. It does not count when two are compared.
    """

    name: str
    version: str | None = None
    build: str | None = None
    build_number: str | None = None
    channel: str | None = None
    subdir: str | None = None
    others: tuple[tuple[str, str], ...] = ()
    text: str = ""

    def __eq__(self, other: object) -> bool:
        return astuple(self)[:-1] == astuple(other)[:-1] if isinstance(other, MatchSpec) else NotImplemented

    def __hash__(self) -> int:
        return hash(astuple(self)[:-1])

    @property
    def url(self) -> str | None:
        """The one file that it names, if it does."""
        return dict(self.others).get("url")

    def __str__(self) -> str:
        """In one spelling, which conda reads as the same."""
        place = f"{self.channel}/{self.subdir}" if self.channel and self.subdir else self.channel
        keys = {} if self.channel or not self.subdir else {"subdir": self.subdir}
        keys |= {"build_number": self.build_number} if self.build_number else {}
        if (self.version and "(" in self.version) or (self.build and not re.fullmatch(r"[\w.*]+", self.build)):
            keys |= {"version": self.version or "*"} | ({"build": self.build} if self.build else {})
            words = self.name
        else:
            version = self.version or ("*" if self.build else None)
            words = " ".join(filter(None, (self.name, version, self.build)))
        inner = _inner(keys | dict(self.others))
        return f"{f'{place}::' if place else ''}{words}{f'[{inner}]' if inner else ''}"


def parse_match_spec(text: str) -> MatchSpec:
    """
    Read a match spec, as a conda file has it.

    Raises:
        InvalidMatchSpec: It is none, or one whose meaning nobody could guess.
    """
    if len(text) > _LIMIT:
        raise InvalidMatchSpec(text, f"longer than {_LIMIT} characters")
    if has_credentials(text):
        raise InvalidMatchSpec(text, "credentials can't be kept", "give them to conda's own settings, not to the file")
    plain, _, comment = (each.strip() for each in text.partition("#"))
    if plain.endswith((".conda", ".tar.bz2")):
        return _file(text, plain, comment)
    if "@" in plain.partition("::")[2 if "::" in plain else 0] or ";" in plain:
        raise InvalidMatchSpec(text, "a pip requirement", "put it under `pip:`")
    before, given = _brackets(text, plain)
    if "(" in before or ")" in before:
        raise InvalidMatchSpec(text, "conda ignores what stands in parentheses", "leave the parentheses out")
    if " if " in before:
        raise InvalidMatchSpec(text, "conda ignores conditions")
    place, _, body = before.rpartition("::")
    if ":" in body or ("::" in before and not place.strip()):
        raise InvalidMatchSpec(text, "a colon that nothing is named by")
    name, version, build = _body(text, body.strip())
    channel, subdir = _split_channel(text, given.pop("channel", place.strip()))
    try:
        number = normalise_number(given.pop("build_number")) if "build_number" in given else None
        version = given.pop("version", version)
        version = normalise_version(version) if version is not None else None
    except ValueError as error:
        raise InvalidMatchSpec(text, str(error)) from error
    subdir = given.pop("subdir", subdir)
    if subdir is not None and subdir not in SUBDIRS:
        raise InvalidMatchSpec(text, f"channels have no directory {subdir!r}")
    build = given.pop("build", build)
    if build is not None and not _BUILD.fullmatch(build):
        raise InvalidMatchSpec(text, f"{build!r} is no build string")
    return MatchSpec(
        name=name,
        version=None if version == "*" else version,
        build=None if build == "*" else build,
        build_number=None if number == "*" else number,
        channel=channel,
        subdir=subdir,
        others=tuple(sorted(given.items())),
        text=text,
    )


def to_rattler(spec: MatchSpec, channel_url: str | None) -> str:
    """
    The spec for `rattler.MatchSpec(text)`, lenient as by default, with conda's meaning.

    Args:
        spec: The spec.
        channel_url: The channel that its channel word stands for, without subdirectory; None if it names none.
    """
    keys = {
        "channel": channel_url,
        "subdir": spec.subdir,
        "version": spec.version,
        "build": spec.build,
        "build_number": spec.build_number,
    }
    inner = _inner({key: value for key, value in keys.items() if value is not None} | dict(spec.others))
    return f"{spec.name}[{inner}]" if inner else spec.name


def match_specs(conda: CondaFile) -> tuple[Requirement, ...]:
    """
    Everything that a conda file asks conda for, `python` too, in its order, and where each stands if that is known.

    The file's text is as it was read: a package that stands there on a line is on that line of the file.
    """
    document = json.loads(conda.document)
    lines = document.get("dependencies") if isinstance(document, dict) else None
    texts = [each.strip() for each in lines or () if isinstance(each, str)]
    origins = {each.text: each.origin for each in conda.packages}
    known = next((each for each in (*conda.packages, *conda.pip) if each.origin is not None), None)
    return tuple(Requirement(each, origins.get(each) or _search(conda.text, each, known)) for each in texts)


def _search(text: str, wanted: str, known: Requirement | None) -> Origin | None:
    """Where a spec stands in a file, if another of its lines shows that the text is the file's."""
    lines = text.splitlines()
    if known is None or known.origin is None or not 0 < known.origin.line <= len(lines):
        return None
    if known.text not in lines[known.origin.line - 1]:
        return None
    found = [number for number, line in enumerate(lines, 1) if _item(line) == wanted]
    return Origin(known.origin.file, found[0]) if len(found) == 1 else None


def _item(line: str) -> str:
    """The text of a list item on one line, without quotes and comment."""
    match = re.fullmatch(r"\s*-\s+(?P<quote>['\"]?)(?P<text>.*?)(?P=quote)\s*(?:\s#.*)?", line)
    return match["text"].strip() if match else ""


def _body(text: str, body: str) -> tuple[str, str | None, str | None]:
    """Name, version as conda's parser gives it to its version parser, and build."""
    match = re.match(r"[^\s=<>!~]*", body)
    name = match[0].lower() if match else ""
    if "*" in name or name.startswith("^"):
        raise InvalidMatchSpec(text, "a name with a wildcard would install whatever matches")
    if not _NAME.fullmatch(name):
        raise InvalidMatchSpec(text, "no package name found" if not name else f"{name!r} is no package name")
    rest = body[len(name) :].strip()
    if not rest:
        return name, None, None
    found = _REST.fullmatch(rest)
    if found is None:
        raise InvalidMatchSpec(text, f"{rest!r} is no version")
    version, build = re.sub(r"\s+", "", found["version"]), found["build"]
    if build is None:
        # NOTE: at the start, and only there, conda reads `==1.2.*` as `1.2.*`, and `=1.2` as `1.2.*`.
        if version.startswith("=="):
            return name, version[2:], None
        if version.startswith("=") and not any(each in version for each in ",|"):
            return name, f"{version[1:].rstrip('*').rstrip('.')}.*" if version != "=*" else "*", None
    elif version.startswith("=") and not version.startswith("==") and not any(each in version for each in ",|"):
        version = version[1:]
    return name, version, build


def _brackets(text: str, plain: str) -> tuple[str, dict[str, str]]:
    """What stands before brackets, and the conditions in them."""
    if "[" not in plain and "]" not in plain:
        return plain, {}
    match = _BRACKETS.fullmatch(plain)
    if match is None:
        raise InvalidMatchSpec(text, "brackets stand once, at the end", "extras are pip's: put it under `pip:`")
    given: dict[str, str] = {}
    at, inner = 0, match["inner"].strip()
    while at < len(inner):
        pair = _PAIR.match(inner, at)
        if pair is None:
            raise InvalidMatchSpec(text, f"[{inner}] is no list of conditions", "extras are pip's: put it under `pip:`")
        value = next(each for each in (pair["single"], pair["double"], pair["bare"]) if each is not None)
        key = pair["key"]
        if key not in _KEYS or key in given or not value.strip():
            raise InvalidMatchSpec(text, f"a condition {key!r} that conda does not have, has twice, or without a value")
        if key in _SUMS and not _SUMS[key].fullmatch(value):
            raise InvalidMatchSpec(text, f"{value!r} is no {key}")
        given[key] = value.strip()
        at = pair.end()
    return match["before"], given


def _split_channel(text: str, place: str) -> tuple[str | None, str | None]:
    """A channel and, where it ends in one, the subdirectory."""
    if not place:
        return None, None
    if not _CHANNEL.fullmatch(place):
        raise InvalidMatchSpec(text, f"{place!r} is no channel")
    channel, _, last = place.rstrip("/").rpartition("/")
    if channel and last in SUBDIRS:
        return channel, last
    return place.rstrip("/"), None


def _file(text: str, url: str, checksum: str) -> MatchSpec:
    """A package by its address: `https://host/channel/linux-64/zlib-1.2-0.conda`, with its sum after `#`."""
    match = _FILE.fullmatch(url.rpartition("/")[2])
    if not url.startswith(("https://", "http://", "file://")) or match is None or not _CHANNEL.fullmatch(url):
        raise InvalidMatchSpec(text, "a package file has an address and is called name-version-build.conda")
    name = match["name"].lower()
    if not _NAME.fullmatch(name):
        raise InvalidMatchSpec(text, f"{name!r} is no package name")
    sums = {"md5": checksum, "sha256": checksum.removeprefix("sha256:")}
    others = {key: value for key, value in sums.items() if _SUMS[key].fullmatch(value)} | {"url": url}
    return MatchSpec(name, others=tuple(sorted(others.items())), text=text)


def _inner(keys: dict[str, str]) -> str:
    """Conditions as brackets have them."""
    return ", ".join(f'{key}="{value}"' for key, value in sorted(keys.items()))
