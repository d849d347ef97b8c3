"""The options of a requirements file: indexes and policy are taken over, secrets refused, the rest named and ignored."""

import re
import shlex
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from mlenv.api.problems import CredentialInUrl, Findings, InvalidLine, Place, nearest
from mlenv.core.redact import has_credentials, redact, strip_placeholders
from mlenv.core.spec import Index, Sources

_SHORT: Final = {"-i": "--index-url", "-f": "--find-links"}
#: Options that take a value, as pip has them; `-r`, `-c` and `-e` are the reader's own.
_VALUED: Final = frozenset(
    [
        "-r", "--requirement", "-c", "--constraint", "-e", "--editable", "-i", "--index-url", "--pypi-url",
        "--extra-index-url", "-f", "--find-links", "--no-binary", "--only-binary", "--trusted-host", "--use-feature",
        "--hash", "--global-option", "--install-option", "--config-settings", "-C",
    ]
)  # fmt: skip
_INCLUDES: Final = frozenset(["-r", "--requirement", "-c", "--constraint"])
_FLAGS: Final = frozenset(["--pre", "--no-index", "--prefer-binary", "--require-hashes", "--process-dependency-links"])
#: What pip takes for `--hash`, and how many digits each has ("Secure installs", pip documentation).
_HASHES: Final = {"sha256": 64, "sha384": 96, "sha512": 128}
_IGNORED: Final = {
    "--trusted-host": "certificates are always checked; add the authority to the system's trust store instead",
    "--use-feature": "it is pip's own",
    "--hash": "it belongs behind a requirement",
    "--require-hashes": "the lock has a hash for every file",
    "--global-option": "source builds take no options",
    "--install-option": "source builds take no options",
    "--config-settings": "source builds take no options",
    "-C": "source builds take no options",
    "--process-dependency-links": "it is gone from pip, too",
}


def split_options(line: str, place: Place) -> tuple[str, list[tuple[str, str]]]:
    """
    Split a line into its requirement, which may be empty, and its options, each with its value or an empty text.

    Raises:
        InvalidLine: An option is unknown, or has no value, or a quotation mark is not closed.
    """
    words = line.split(" ")
    first = next((at for at, word in enumerate(words) if word.startswith("-")), len(words))
    body = " ".join(words[:first]).strip()
    try:
        rest = shlex.split(" ".join(words[first:]))
    except ValueError as error:
        raise InvalidLine(f"not an option: {line!r}: {error}", place) from error
    options: list[tuple[str, str]] = []
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        if not name.startswith("--") and len(name) > 2:
            # `-rfile` is `-r file`.
            name, value, equals = name[:2], name[2:] + equals + value, "="
        if name in _VALUED:
            if not equals:
                value = rest.pop(0) if rest else ""
            if not value:
                raise InvalidLine(f"the option {name} needs a value", place)
            if name in _INCLUDES and re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+:", value):
                raise InvalidLine(
                    "files can't be included from a URL", place, found=repr(value), hint="keep a copy beside this file"
                )
        elif name not in _FLAGS:
            meant = nearest(name, _VALUED | _FLAGS)
            raise InvalidLine(
                f"an option that requirements files don't have: {name!r}",
                place,
                hint=f"did you mean `{meant}`?" if meant else None,
            )
        options.append((name, value))
    return body, options


def listed_hash(value: str, place: Place, findings: Findings) -> str | None:
    """
    The value of `--hash`, as a requirement keeps it; None, and a warning, for one that locks have not.

    Raises:
        InvalidLine: It is none.
    """
    algorithm, _, digits = value.partition(":")
    if not re.fullmatch(f"[0-9a-fA-F]{{{_HASHES.get(algorithm, 0)}}}", digits) or algorithm not in _HASHES:
        raise InvalidLine("not a hash", place, found=repr(value), expected="sha256: and 64 hexadecimal digits")
    if algorithm != "sha256":
        findings.warn(place, f"--hash={algorithm}:{digits[:8]}… is ignored: locks have sha256, and no {algorithm}")
        return None
    return f"sha256:{digits.lower()}"


def index_name(url: str, taken: set[str]) -> str:
    """A name for an index that has none, under which its credentials are found: after its host, and not yet taken."""
    host = urlsplit(url).hostname or "index"
    base = re.sub(r"[^a-z0-9]+", "-", host.lower()).strip("-") or "index"
    name, count = base, 1
    while name in taken:
        count += 1
        name = f"{base}-{count}"
    taken.add(name)
    return name


def credential_hint(name: str) -> str:
    """How to give credentials for an index of that name."""
    variable = re.sub(r"[^A-Z0-9]", "_", name.upper())
    return (
        f"take them out of the URL and set UV_INDEX_{variable}_USERNAME and UV_INDEX_{variable}_PASSWORD "
        "where it is resolved, or use ~/.netrc or the keyring"
    )


def check_index_url(url: str, place: Place, findings: Findings, *, name: str, path: str = "") -> str:
    """
    An index's address, fit to be kept.

    Raises:
        CredentialInUrl: It holds a secret.
        InvalidLine: It is no URL.
    """
    bare = strip_placeholders(url)
    if has_credentials(bare):
        problem = CredentialInUrl(place, path=path, url=repr(redact(url)))
        problem.hint = credential_hint(name)
        raise problem
    if bare != url:
        findings.warn(place, f"the credentials of {bare} are not kept: {credential_hint(name)}")
    try:
        parts = urlsplit(bare)
        valid = parts.scheme in {"http", "https", "file"} and bool(parts.hostname or parts.scheme == "file")
    except ValueError:
        valid = False
    if not valid or "${" in bare or re.search(r"\s", bare):
        raise InvalidLine("not the URL of an index", place, path=path, found=repr(bare), expected="http:// or https://")
    return bare


class Options:
    """What the options of a file and all that it includes add up to."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._default: Index | None = None
        self._extra: list[Index] = []
        self._no_index = False
        self._names: set[str] = set()
        self.allow_source: list[str] = []
        self.prereleases = False

    def sources(self) -> Sources:
        """The indexes."""
        return Sources(self._default, tuple(self._extra), self._no_index)

    def take(self, name: str, value: str, place: Place, *, alone: bool) -> None:
        """
        Take one option.

        Args:
            name: As written: `-i`.
            value: Its value, or an empty text.
            place: Where the line starts.
            alone: There is no requirement on the line.

        Raises:
            CredentialInUrl: It holds a secret.
            InvalidLine: Its value is not what it should be.
        """
        name = _SHORT.get(name, name)
        if name in {"--index-url", "--pypi-url", "--extra-index-url"}:
            self._index(value, place, default=name != "--extra-index-url")
        elif name == "--find-links":
            self._flat(value, place)
        elif name == "--no-index":
            self._no_index = True
        elif name == "--pre":
            self.prereleases = True
        elif name == "--no-binary":
            self._no_binary(value, place)
        elif name in _IGNORED:
            about = "" if alone else "behind a requirement "
            self._findings.warn(place, f"{name} {about}is ignored: {_IGNORED[name]}")
        # `--only-binary` and `--prefer-binary` ask for what is done anyway.

    def _index(self, url: str, place: Place, *, default: bool) -> None:
        name = index_name(_host_only(url), self._names)
        index = Index(check_index_url(url, place, self._findings, name=name), name)
        if default:
            self._default = index
        elif index.url not in {each.url for each in self._extra}:
            self._extra.append(index)

    def _flat(self, value: str, place: Place) -> None:
        if not re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+:", value):
            path = (Path(place.file).parent / value).resolve()
            self._findings.warn(place, f"--find-links {value}: only this machine has that directory")
            value = path.as_uri()
        name = index_name(_host_only(value), self._names)
        index = Index(check_index_url(value, place, self._findings, name=name), name, flat=True)
        if index.url not in {each.url for each in self._extra}:
            self._extra.append(index)

    def _no_binary(self, value: str, place: Place) -> None:
        from packaging.utils import canonicalize_name

        for each in filter(None, (part.strip() for part in value.split(","))):
            if each == ":none:":
                self.allow_source.clear()
            elif each.startswith(":"):
                self._findings.warn(
                    place, f"--no-binary {each} is ignored: wheels come first; name the packages that need their source"
                )
            elif (name := canonicalize_name(each)) not in self.allow_source:
                self.allow_source.append(name)


def _host_only(url: str) -> str:
    """The URL without user information, for naming; what can't be parsed has no host."""
    try:
        return f"//{urlsplit(strip_placeholders(url)).hostname or ''}"
    except ValueError:
        return "//"
