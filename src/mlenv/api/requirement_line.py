"""One requirement (PEP 508, or a direct URL as pip takes it), checked, with what people get wrong said in plain words."""

import re
from typing import Final

from mlenv.api.problems import CredentialInUrl, Findings, InvalidLine, Place
from mlenv.core.redact import has_credentials, redact, strip_placeholders
from mlenv.core.spec import Requirement

#: The longest requirement, in characters.
_LONGEST: Final = 4096
_TEMPLATE: Final = re.compile(r"\{\{|\{%|\}\}|<%|\$\(|\$\[\[")
_URL: Final = re.compile(r"(?:git|hg|svn|bzr)\+[a-z+]+://|https?://|ftp://", re.IGNORECASE)
_EGG: Final = re.compile(r"#(?:.*&)?egg=([A-Za-z0-9._-]+(?:\[[^\]]*\])?)")
_LOCAL: Final = re.compile(r"(?:file:|\.{1,2}(?:[/\\\[]|$)|/|~|[A-Za-z]:[\\/])")
_ARCHIVE: Final = re.compile(r"[^;@\s]*(?:\.whl|\.tar\.gz|\.tar\.bz2|\.zip|\.tgz)(?:\s|;|$)")
#: What most lines are, which need no parser to be known as right: a name, perhaps with one plain release (PEP 508).
_PLAIN: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?(?:\s*[=<>!]=\s*[0-9]+(?:\.[0-9]+)*)?", re.ASCII)
_LOCAL_HINT: Final = (
    "an environment can't hold your working tree: leave the line out (your code is there when it runs), "
    "or publish the package to an index, or name it by a URL"
)


def is_plain(text: str) -> bool:
    """Whether a line is a name, perhaps with one plain release: `check_requirement` has nothing to say of it, and keeps it."""
    return len(text) <= _LONGEST and _PLAIN.fullmatch(text) is not None and _ARCHIVE.match(text) is None


def check_requirement(
    text: str, place: Place, findings: Findings, *, editable: bool = False, constraint: bool = False
) -> Requirement:
    """
    Check one requirement.

    Args:
        text: The requirement, without comment and options.
        place: Where it starts.
        findings: Takes warnings.
        editable: It stands behind `-e`.
        constraint: It is a bound, which may have no extras and no URL of its own.

    Raises:
        InvalidLine: It is no requirement, or one for a local directory.
        CredentialInUrl: It holds a secret.
    """
    text = text.strip()
    if len(text) > _LONGEST:
        raise InvalidLine(f"a requirement longer than {_LONGEST} characters", place)
    if template := _TEMPLATE.search(text):
        raise InvalidLine(
            f"not a requirement: {text!r} looks like an unfilled template",
            place.shifted(template.start()),
            hint="fill the template in first, or write the version that is meant",
        )
    text = _without_secrets(text, place, findings)
    if _URL.match(text):
        text = _named_url(text)
    elif _LOCAL.match(text) or _ARCHIVE.match(text) or editable:
        raise InvalidLine(f"a local path can't be a requirement here: {text!r}", place, hint=_LOCAL_HINT)
    if editable:
        findings.warn(place, f"`-e` is ignored, the package is installed as it is: {text}")
    if not _PLAIN.fullmatch(text) and not _URL.match(text):
        _check_pep508(text, place)
    return Requirement(text, place.origin)


def _without_secrets(text: str, place: Place, findings: Findings) -> str:
    bare = strip_placeholders(text)
    if has_credentials(bare):
        raise CredentialInUrl(place, url=repr(redact(text)))
    if bare != text:
        findings.warn(place, f"the credentials are not kept, give them by ~/.netrc or the keyring: {bare}")
    if "${" in bare:
        raise InvalidLine(
            f"variables are not filled in: {bare!r}", place.shifted(bare.index("${")), hint="write the value itself"
        )
    return bare


def _named_url(text: str) -> str:
    """`git+https://…#egg=name` as `name @ git+https://…` (PEP 508 has no egg); other URLs as they are."""
    match = _EGG.search(text)
    if not match:
        return text
    fragment = [each for each in text.partition("#")[2].split("&") if not each.startswith("egg=")]
    url = text.partition("#")[0] + (f"#{'&'.join(fragment)}" if fragment else "")
    return f"{match[1]} @ {url}"


def _check_pep508(text: str, place: Place) -> None:
    from packaging.requirements import InvalidRequirement
    from packaging.requirements import Requirement as Pep508

    try:
        parsed = Pep508(text)
    except InvalidRequirement as error:
        span = getattr(error.__cause__, "span", None) or (0, 0)
        why = str(error).splitlines()[0]
        raise InvalidLine(f"not a requirement: {text!r}: {why}", place.shifted(span[1]), hint=_guess(text)) from error
    if parsed.url and _LOCAL.match(parsed.url):
        raise InvalidLine(f"a local path can't be a requirement here: {text!r}", place, hint=_LOCAL_HINT)


def _guess(text: str) -> str:
    """What was probably meant."""
    if match := re.fullmatch(r"[\[,\s]*(['\"])(.+)\1[\],\s]*", text):
        return f"it looks like a line of a Python list; write `{match[2]}`"
    if match := re.fullmatch(r"([A-Za-z0-9._-]+(?:\[[^\]]*\])?)\s*=\s*([0-9][^=,\s]*)(=\S*)?", text):
        return f"a single `=` is conda's; for pip write `{match[1]}=={match[2]}`"
    if match := re.fullmatch(r"([A-Za-z0-9._-]+)\s+(v?[0-9]\S*)", text):
        return f"did you mean `{match[1]}=={match[2].lstrip('v')}`?"
    if re.search(r"[<>=!~]=?\s*$", text):
        return "a version is missing at the end"
    if ".*" in text and not re.search(r"[=!]=[^,;]*\.\*", text):
        return "`.*` goes with `==` and `!=` only"
    return "write it as in `name==1.2.3` (PEP 508)"
