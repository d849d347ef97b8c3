"""
Compiles sources for `mlenv.build.compiler`, inside the interpreter that the bytecode is for.

Runs on CPython 3.7 and later with nothing but the standard library, and imports nothing of mlenv: it is passed to the
interpreter as text. It reads requests from its standard input and writes answers to its standard output:

    hello     u32 length, then `VERSION NUL CACHE_TAG`
    request   u32 length, then a marshalled [(file, name, offset, packed, size, method, crc), ...]; a packed size of -1
              means the whole file as it is
    answer    for each source in turn: u8 status (0 done, 1 left out), u32 length, and the content of the `.pyc`

The same source gives the same bytes, whatever was compiled before. Four things stand in the way of that, and all come
from strings that are interned, and so shared with all else that the process holds:

(1) `marshal` marks an object for later reference if anything else refers to it. So the code is written, read, and
    written again while the first one is alive: now every interned string has another owner, and everything else has
    none but its own parent.
(2) The compiler replaces a frozenset constant by a new one if a string in it was interned before, which parts two
    constants that were one. So all strings of such sets are interned before the compiler sees them; where that was
    not foreseen, the source is compiled a second time while the first code is alive.
(3) From 3.13 on, the qualified name of a class inside another block is interned with the class's code, or replaced
    there by an equal one that was interned before. So these names are interned before, too.
(4) Strings of one character exist once per process, and `marshal` says of each whether it is interned. So all are.
"""

from __future__ import annotations

import sys

sys.path[:] = [each for each in sys.path if each]

import marshal
import os
import re
import signal
import struct
import warnings
import zlib
from gc import disable
from importlib.util import MAGIC_NUMBER, source_hash
from types import CodeType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO

#: Processor seconds for one source, after which the process ends and the source is left out.
TIME_LIMIT = 120
#: Bytes of memory for the process.
MEMORY_LIMIT = 4 << 30
#: Bytes of the largest source that is compiled.
SOURCE_LIMIT = 16 << 20
#: Header of a pyc that is checked by nobody: flags (PEP 552).
UNCHECKED = b"\1\0\0\0"

ONE_CHARACTER = [sys.intern(text) for text in ("", *map(chr, range(256)))]

_SET = re.compile(rb"\bin[\s(\\]*\{")
_QUOTED = re.compile(r"""(?:"([^"\\\n]*)"|'([^'\\\n]*)')""")
_BLOCK = re.compile(r"^([ \t]*)(?:async[ \t]+)?(def|class)[ \t]+(\w+)", re.MULTILINE)
_NESTED = re.compile(rb"^[ \t]+class[ \t]", re.MULTILINE)
#: Whether the qualified name of a class depends on what is interned.
_NAMES_CLASSES = sys.version_info >= (3, 13)


def nested_classes(text: str) -> list[str]:
    """Qualified names of the classes inside other blocks, read off the indentation: most of them, and some more."""
    found = []
    stack: list[tuple[int, str]] = []
    for indentation, kind, name in _BLOCK.findall(text):
        depth = len(indentation.expandtabs())
        while stack and stack[-1][0] >= depth:
            stack.pop()
        qualified = stack[-1][1] + name if stack else name
        if stack and kind == "class":
            found.append(qualified)
        stack.append((depth, qualified + (".<locals>." if kind == "def" else ".")))
    return found


def sensitive_strings(code: CodeType, found: set[str], unordered: list[object]) -> None:
    """Add strings that must have been interned to `found`, and constants whose order is by address to `unordered`."""
    for constant in code.co_consts:
        kind = type(constant)
        if kind is CodeType:
            sensitive_strings(constant, found, unordered)
            if _NAMES_CLASSES and "." in constant.co_qualname and constant.co_qualname in constant.co_consts:
                found.add(constant.co_qualname)
        elif kind is frozenset:
            strings_in(constant, found, unordered)


def strings_in(constant: Any, found: set[str], unordered: list[object]) -> None:
    for each in constant:
        if type(each) is str:
            found.add(each)
        elif type(each) in (tuple, frozenset):
            strings_in(each, found, unordered)
        elif each is None or each is Ellipsis:
            unordered.append(each)


def compile_source(source: bytes, name: str) -> bytes | None:
    """The content of a pyc, or None for a source that can't be compiled."""
    known: set[str] = set()
    if _SET.search(source):
        text = source.decode("utf-8", "replace")
        known.update(sys.intern(one or other) for one, other in _QUOTED.findall(text))
    if _NAMES_CLASSES and _NESTED.search(source):
        known.update(map(sys.intern, nested_classes(source.decode("utf-8", "replace"))))
    try:
        code = compile(source, name, "exec", dont_inherit=True, optimize=0)
        strings: set[str] = set()
        unordered: list[object] = []
        sensitive_strings(code, strings, unordered)
        if not strings <= known:
            # The first code stays alive, and with it its strings.
            _first, code = code, compile(source, name, "exec", dont_inherit=True, optimize=0)
        # Before 3.11 marshal writes a set in its own order, which for these depends on where they lie in memory.
        if unordered and sys.version_info < (3, 11):
            return None
        copy = marshal.loads(marshal.dumps(code))
        return MAGIC_NUMBER + UNCHECKED + source_hash(source) + marshal.dumps(copy)
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError):
        return None


def read_source(file: BinaryIO, offset: int, packed: int, size: int, method: int, crc: int) -> bytes:
    """A file, or one member of a zip file. Raises `ValueError` if it is not what it should be."""
    file.seek(offset)
    if packed < 0:
        return file.read(SOURCE_LIMIT + 1)
    data = file.read(packed)
    if method:
        data = zlib.decompressobj(-15).decompress(data, size + 1)
    if len(data) != size or zlib.crc32(data) != crc:
        raise ValueError("damaged")
    return data


def answer(request: tuple[str, str, int, int, int, int, int]) -> bytes | None:
    """The content of a pyc for one request, or None."""
    path, name, offset, packed, size, method, crc = request
    if size > SOURCE_LIMIT:
        return None
    try:
        with open(path, "rb", buffering=0) as file:
            source = read_source(file, offset, packed, size, method, crc)
        return compile_source(source, name) if len(source) <= SOURCE_LIMIT else None
    except (OSError, ValueError, zlib.error, MemoryError):
        return None


def limit() -> None:
    """Bound what a hostile source may use."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, ValueError, OSError):
        pass


def write_all(out: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(out, view) :]


def main() -> None:
    limit()
    disable()
    warnings.simplefilter("ignore")
    requests, out = sys.stdin.buffer, 1
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[3] != "final":
        version += {"alpha": "a", "beta": "b"}.get(sys.version_info[3], "rc") + str(sys.version_info[4])
    hello = f"{version}\0{sys.implementation.cache_tag}".encode()
    write_all(out, struct.pack("<I", len(hello)) + hello)
    while True:
        head = requests.read(4)
        if len(head) < 4:
            return
        for request in marshal.loads(requests.read(struct.unpack("<I", head)[0])):
            if hasattr(signal, "setitimer"):
                signal.setitimer(signal.ITIMER_PROF, TIME_LIMIT)
            content = answer(request)
            write_all(out, struct.pack("<BI", content is None, len(content or b"")) + (content or b""))


if __name__ == "__main__":
    main()
