"""What a definition asks of Python, in the spellings of PEP 440, conda and plain people."""

import re
from typing import Final

from mlenv.errors import InvalidInput

_BARE: Final = re.compile(r"\d+\.\d+(?:\.\d+)?")
_MAJOR: Final = re.compile(r"\d+")
_STAR: Final = re.compile(r"(\d+(?:\.\d+)*)\.?\*")
_OPERATOR: Final = re.compile(r"(===|==|~=|!=|>=|<=|>|<|=)\s*(.+)")


class InvalidPython(InvalidInput):
    """Text that should say which Python is wanted, and does not."""

    hint = "write a version such as `3.11` or `3.11.4`, or a range such as `>=3.10,<3.12`"

    def __init__(self, text: str) -> None:
        super().__init__(f"not a Python version or range: {text!r}")
        self.text = text


def parse_python(text: str) -> str:
    """
    Read `3.11`, `3.11.4`, `3.11.*` or a PEP 440 specifier set.

    Returns:
        A bare version, if one minor or patch release is asked for (`3.11`); otherwise the specifier set.

    Raises:
        InvalidPython: It is neither.
    """
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    squeezed = re.sub(r"\s+", "", text)
    if _BARE.fullmatch(squeezed):
        return squeezed
    if _MAJOR.fullmatch(squeezed):
        squeezed = f"=={squeezed}.*"
    if match := re.fullmatch(r"(?:==)?(\d+\.\d+)\.\*", squeezed):
        return match[1]
    if match := re.fullmatch(r"==(\d+\.\d+\.\d+)", squeezed):
        return match[1]
    try:
        if squeezed and SpecifierSet(squeezed):
            return squeezed
    except InvalidSpecifier as error:
        raise InvalidPython(text) from error
    raise InvalidPython(text)


def python_from_conda(version: str) -> str | None:
    """
    Read the version part of a conda match spec: `=3.10`, `==3.10.4`, `>=3.8,<3.11`, `3.9.*`; a build string is dropped.

    As in conda, `=3.10` and a bare `3.10` mean any patch release. `==3.10`, for conda 3.10.0 alone, is read likewise:
    it is nearly always meant so.

    Raises:
        InvalidPython: It is an alternative (`3.8|3.9`), or not a version at all.
    """
    version = re.sub(r"\s*,\s*", ",", version.strip())
    version = re.sub(r"([=<>!~])\s+", r"\1", version)
    # A build string stands after a second `=`, or after white space.
    version = version.split()[0] if version else ""
    if match := re.fullmatch(r"(=?[^=<>!~,|]+)=[^=,|]+", version):
        version = match[1]
    if version in {"", "*", "=*"}:
        return None
    parts = [_conda_part(each, version) for each in version.split(",")]
    return parse_python(",".join(parts))


def _conda_part(part: str, whole: str) -> str:
    if match := _OPERATOR.fullmatch(part):
        operator, version = match[1], match[2]
    else:
        operator, version = "=", part
    if star := _STAR.fullmatch(version):
        version = star[1]
        operator = {"=": "=", "==": "=", ">=": ">=", "<": "<", "!=": "!=*"}.get(operator, operator)
    if not re.fullmatch(r"\d+(?:\.\d+)*(?:(?:a|b|rc)\d+)?", version):
        raise InvalidPython(whole)
    if operator == "!=*":
        return f"!={version}.*"
    if operator == "=":
        return f"=={version}" if version.count(".") >= 2 else f"=={version}.*"
    if operator == "==" and version.count(".") == 1:
        return f"=={version}.*"
    return f"{operator}{version}"


def both(first: str | None, second: str | None) -> str | None:
    """What asks for both at once."""
    if first is None or second is None or first == second:
        return first or second
    return ",".join(
        f"=={each}.*" if each.count(".") == 1 and each[0].isdigit() else f"=={each}" if each[0].isdigit() else each
        for each in (first, second)
    )
