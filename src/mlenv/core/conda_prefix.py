"""
Making files name the prefix they lie in, instead of the one they were built for, as conda does.

Source: conda, `core/portability.py` (`replace_prefix`, `binary_replace`, `replace_long_shebang`,
`generate_shebang_for_entry_point`). UTF-8 is looked for, and not the wide encodings that conda tries too.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Final

from mlenv.core.conda_contents import EntryPoint

#: Linux reads no more of a script's first line (execve(2), before 5.1); conda counts the same.
SHEBANG_LIMIT: Final = 127
_SHEBANG: Final = re.compile(rb"(#![ ]*(/(?:\\ |[^ \n\r\t])*)([^\n]*))(?:\n|\Z)")
#: The longest text behind a prefix in a binary file, in bytes. Search paths are long, but not so long.
_TEXT_LIMIT: Final = 1 << 20

_SCRIPT: Final = """\
# -*- coding: utf-8 -*-
import re
import sys

from {module} import {first}

if __name__ == '__main__':
    sys.argv[0] = re.sub(r'(-script\\.pyw?|\\.exe)?$', '', sys.argv[0])
    sys.exit({function}())
"""


class PrefixDoesNotFit(ValueError):
    """A binary file was built for a shorter prefix than the one it is to name, or has no end of text to pad."""


def replace_in_text(data: bytes, placeholder: str, prefix: str) -> bytes:
    """A text file with its prefix. A first line that gets too long, or has spaces, asks `/usr/bin/env` instead."""
    first, newline, rest = data.partition(b"\n")
    old = b"#!" + placeholder.encode()
    if newline and old in first:
        first = first.replace(old, b"#!" + prefix.replace(" ", "\\ ").encode())
    data = (first + newline + rest).replace(placeholder.encode(), prefix.encode())
    match = _SHEBANG.match(data)
    if match is None:
        return data
    whole, program, options = match.groups()
    directory, _, name = program.rpartition(b"/")
    if len(whole) <= SHEBANG_LIMIT and b"\\ " not in directory:
        return data
    return b"#!/usr/bin/env " + name + options + data[match.end(1) :]


def replace_in_binary(chunks: Iterable[bytes], placeholder: str, prefix: str) -> Iterator[bytes]:
    """
    A binary file with its prefix, a chunk at a time: each text keeps its length, padded with zeros at its end.

    Raises:
        PrefixDoesNotFit: The prefix is longer than the placeholder.
    """
    old, new = placeholder.encode(), prefix.encode()
    short = len(old) - len(new)
    if short < 0:
        raise PrefixDoesNotFit(f"built for a prefix of {len(old)} bytes, which is too short for {prefix!r}")
    pending = b""
    for chunk in chunks:
        pending += chunk
        done, place = [], 0
        while (found := pending.find(old, place)) >= 0 and (end := pending.find(b"\0", found)) >= 0:
            text = pending[found:end]
            done += [pending[place:found], text.replace(old, new), bytes(short * text.count(old))]
            place = end
        # Kept for the next chunk: a text whose end is not seen yet, or what could be the beginning of a placeholder.
        keep = found if found >= 0 else max(place, len(pending) - len(old) + 1)
        if len(pending) - keep > _TEXT_LIMIT + len(chunk):
            raise PrefixDoesNotFit(f"more than {_TEXT_LIMIT} bytes of text behind a prefix")
        done.append(pending[place:keep])
        pending = pending[keep:]
        yield b"".join(done)
    # A text that only the file's end ends stays as it is, as conda has it.
    yield pending


def script_for(point: EntryPoint, python: str) -> bytes:
    """The script of an entry point, as conda writes it, for an interpreter at an absolute path."""
    body = _SCRIPT.format(module=point.module, first=point.function.split(".")[0], function=point.function)
    line = f"#!{python}\n"
    if len(line) > SHEBANG_LIMIT or " " in python:
        # A shell runs the interpreter; to Python the second line is a string.
        line = f"#!/bin/sh\n'''exec' \"{python}\" \"$0\" \"$@\" #'''\n"
    return (line + body).encode()
