"""Scripts of a distribution: `#!python` lines, and entry points (PyPA, "Entry points" and "Binary distribution format")."""

import re
from typing import Final

from msgspec import Struct

from mlenv.core.wheel_archive import InvalidWheel, check_path

_OBJECT = re.compile(r"(?P<module>[\w.]+)\s*:\s*(?P<attribute>[\w.]+)\s*(?:\[.*\])?\s*")
_FIRST_LINE = re.compile(rb"#!python(w?)[^\r\n]*")
#: The longest `#!` line that every kernel takes whole.
_SHEBANG_LIMIT: Final = 127
_GROUPS: Final = ("console_scripts", "gui_scripts")


class EntryPoint(Struct, frozen=True):
    """A script to be made: its name, and the function it calls."""

    name: str
    module: str
    attribute: str


def parse_entry_points(text: str, *, filename: str) -> list[EntryPoint]:
    """The console and gui scripts of an `entry_points.txt`, sorted by name. Raises `InvalidWheel`."""
    import configparser

    parser = configparser.RawConfigParser(delimiters=("=",), strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    try:
        parser.read_string(text)
    except configparser.Error as error:
        reason = " ".join(str(error).split())
        raise InvalidWheel(filename, f"entry_points.txt can't be read: {reason}") from error
    found: dict[str, EntryPoint] = {}
    for group in _GROUPS:
        for name, value in parser.items(group) if parser.has_section(group) else ():
            found.setdefault(name, _entry_point(name, value or "", filename))
    return [found[name] for name in sorted(found)]


def _entry_point(name: str, value: str, filename: str) -> EntryPoint:
    check_path(filename, name)
    match = _OBJECT.fullmatch(value)
    names = f"{match['module']}.{match['attribute']}".split(".") if match else []
    if not match or "/" in name or not all(each.isidentifier() for each in names):
        raise InvalidWheel(filename, f"the entry point {name!r} = {value!r} is not `module:function`")
    return EntryPoint(name, match["module"], match["attribute"])


def script_for(entry: EntryPoint, python: str) -> bytes:
    """The script that calls an entry point, as every installer makes one."""
    first = entry.attribute.partition(".")[0]
    return (
        _shebang(python)
        + (
            f"import sys\nfrom {entry.module} import {first}\n\n"
            'if __name__ == "__main__":\n'
            '    sys.argv[0] = sys.argv[0][:-4] if sys.argv[0].endswith(".exe") else sys.argv[0]\n'
            f"    sys.exit({entry.attribute}())\n"
        ).encode()
    )


def rewrite_script(data: bytes, python: str) -> bytes:
    """Content of `.data/scripts` with a first line that says `#!python` or `#!pythonw` made to name the interpreter."""
    if match := _FIRST_LINE.match(data):
        rest = data[match.end() :]
        return _shebang(python) + (rest[2:] if rest.startswith(b"\r\n") else rest[1:])
    return data


def _shebang(python: str) -> bytes:
    """A `#!` line; a path that is too long or has spaces goes by way of `sh`, for which Python reads as a string."""
    if " " not in python and len(python.encode()) + 3 <= _SHEBANG_LIMIT:
        return f"#!{python}\n".encode()
    quoted = python.replace("'", "'\"'\"'")
    return f"#!/bin/sh\n'''exec' '{quoted}' \"$0\" \"$@\"\n' '''\n".encode()
