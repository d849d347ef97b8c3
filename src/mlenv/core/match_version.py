"""
Bounds on conda versions (CEP 29, "version specifiers", and conda's `VersionSpec`), in one spelling.

`1.2` alone is exactly that version, `1.2*` and `=1.2` all that begin with it. `,` binds closer than `|`.
"""

import re
from typing import Final

_TOKENS: Final = re.compile(r"[()|,]|[^()|,]+")
_RELATION: Final = re.compile(r"(?P<operator>==|!=|<=|>=|~=|=|<|>)(?P<version>[^=<>!~\s].*)")
_PARTS: Final = re.compile(r"[0-9a-z]+(?:[._][0-9a-z]+)*_*")
#: Parentheses within parentheses. Nobody writes more.
_DEPTH: Final = 20


def normalise_version(text: str) -> str:
    """
    Bounds, each as one operator and a version; `*` for any.

    Args:
        text: As it stands in `version=` or behind a name, there after the rules for the first `=`.

    Raises:
        ValueError: It is no bound. The message says why.
    """
    return _Bounds(text).read()


def normalise_number(text: str) -> str:
    """A bound on a build number: `3`, `>=3`, `*`. Raises `ValueError`."""
    match = re.fullmatch(r"\s*(==|!=|<=|>=|=|<|>)?\s*(\d{1,18})\s*", text)
    if text.strip() == "*":
        return "*"
    if match is None:
        raise ValueError(f"{text!r} is no build number")
    operator = "" if match[1] in (None, "=", "==") else match[1]
    return f"{operator}{int(match[2])}"


class _Bounds:
    """Reads an expression: `or` of `and` of single bounds, or of expressions in parentheses."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = [each for each in (token.strip() for token in _TOKENS.findall(text)) if each]
        self._at = 0

    def read(self) -> str:
        """The whole. Raises `ValueError`."""
        whole = "|".join(self._alternatives(0))
        if self._at < len(self._tokens):
            raise ValueError(f"{self._text!r} has a parenthesis too many")
        return whole

    def _alternatives(self, depth: int) -> list[str]:
        found = [self._all_of(depth)]
        while self._next("|"):
            found.append(self._all_of(depth))
        return found

    def _all_of(self, depth: int) -> str:
        found = [self._one(depth)]
        while self._next(","):
            found.append(self._one(depth))
        if len(found) > 1 or not isinstance(found[0], list):
            return ",".join(each if isinstance(each, str) else f"({'|'.join(each)})" for each in found)
        return "|".join(found[0])

    def _one(self, depth: int) -> str | list[str]:
        """One bound; or the alternatives in parentheses, if there is more than one."""
        if depth > _DEPTH:
            raise ValueError(f"{self._text!r} has too many parentheses")
        if self._next("("):
            inner = self._alternatives(depth + 1)
            if not self._next(")"):
                raise ValueError(f"{self._text!r} lacks a closing parenthesis")
            return inner if len(inner) > 1 or "|" in inner[0] else inner[0]
        if self._at == len(self._tokens) or self._tokens[self._at] in "()|,":
            raise ValueError(f"{self._text!r} lacks a version")
        self._at += 1
        return _bound(self._tokens[self._at - 1])

    def _next(self, token: str) -> bool:
        if self._at < len(self._tokens) and self._tokens[self._at] == token:
            self._at += 1
            return True
        return False


def _bound(text: str) -> str:
    """One bound. Raises `ValueError`."""
    if text[0] == "^" or text[-1] == "$":
        raise ValueError("regular expressions are for builds, not for versions")
    if text[0] in "=!<>~":
        match = _RELATION.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} has no operator that conda knows")
        return _relation(match["operator"], match["version"])
    if text.strip("*") == "":
        return "*"
    if text.endswith("*"):
        return f"{_version(text.rstrip('*').rstrip('.'))}.*"
    return f"=={_version(text)}"


def _relation(operator: str, version: str) -> str:
    """What conda makes of `.*` behind an operator: it belongs to `=` and `!=`, and is cut off after others."""
    if version.endswith(".*"):
        if operator == "~=":
            raise ValueError("`~=` and `.*` exclude each other")
        stem = _version(version[:-2])
        return f"!={stem}.*" if operator == "!=" else _with_operator(operator, stem)
    return _with_operator(operator, _version(version))


def _with_operator(operator: str, version: str) -> str:
    if operator == "~=" and "." not in version:
        raise ValueError(f"`~={version}` needs a version of two parts at least")
    return f"{version}.*" if operator == "=" else f"{operator}{version}"


def _version(text: str) -> str:
    """One version (conda's `VersionOrder`), in lower case. Raises `ValueError`."""
    version = text.lower()
    if "*" in version:
        raise ValueError(f"{text!r} has a wildcard where it means nothing")
    if "_" not in version:
        version = version.replace("-", "_")
    release, plus, local = version.partition("+")
    epoch, exclamation, rest = release.rpartition("!")
    good = _PARTS.fullmatch(rest) and (not exclamation or epoch.isdecimal()) and (not plus or _PARTS.fullmatch(local))
    if not good:
        raise ValueError(f"{text!r} is no version")
    return version
