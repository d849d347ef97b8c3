"""
Bytecode of wheels: compiled once per wheel and interpreter, and kept.

The result depends on the wheel, the interpreter's version and where the files will lie, and on nothing else; it is
kept as one blob, so that a layer made anew compiles nothing twice. Files carry an unchecked hash (PEP 552): no time
stamp, and nothing to look at on import.
"""

import json
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol

import zstandard
from msgspec import Struct

from mlenv.build.compiler import Compiler, is_compiled
from mlenv.build.interface import Blobs, LayerCache
from mlenv.core.digest import Digest
from mlenv.core.layer import MTIME, PREFIX, RECIPE, Layer
from mlenv.core.progress import Progress
from mlenv.core.spec import canonical_json
from mlenv.core.wheel import InstalledTree

__all__ = ["MEDIA_TYPE", "CompiledWheel", "Compiler", "bytecode_key", "compile_to_files", "compile_wheel", "recall"]

MEDIA_TYPE: Final = "application/vnd.mlenv.bytecode.v1+zstd"
_TAIL: Final = struct.Struct("<QQ")


class CompiledWheel(Struct, frozen=True):
    """
    The bytecode of a wheel.

    Attributes:
        files: Path under the prefix and size in bytes, sorted by path.
        skipped: Sources that could not be compiled, under the prefix: templates, other Pythons' syntax.
        blob: Where the content is kept.
    """

    files: tuple[tuple[str, int], ...]
    skipped: tuple[str, ...]
    blob: Digest

    def contents(self, blobs: Blobs) -> Iterator[tuple[str, bytes]]:
        """Path and content of each file, sorted by path. Raises `NotFound` if the blob is gone."""
        with open(blobs.path(self.blob), "rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as reader:
            for path, size in self.files:
                yield path, reader.read(size)


def bytecode_key(wheel: Digest, version: str, *, prefix: str = PREFIX) -> Digest:
    """By what the bytecode of a wheel is remembered: the full version of the interpreter, and where files will lie."""
    content = {"bytecode": RECIPE, "mtime": MTIME, "wheel": wheel.hex, "python": version, "prefix": prefix}
    return Digest.of(canonical_json(content).encode())


def recall(key: Digest, *, blobs: Blobs, cache: LayerCache) -> CompiledWheel | None:
    """The bytecode that is remembered for a key (see `bytecode_key`), or None."""
    remembered = cache.get(key)
    if remembered is None or remembered.media_type != MEDIA_TYPE:
        return None
    with open(blobs.path(remembered.digest), "rb") as file:
        file.seek(-_TAIL.size, os.SEEK_END)
        packed, size = _TAIL.unpack(file.read())
        file.seek(-_TAIL.size - packed, os.SEEK_END)
        index = json.loads(zstandard.ZstdDecompressor().decompress(file.read(packed), max_output_size=size))
    files = tuple((path, size) for path, size in index["files"])
    return CompiledWheel(files, tuple(index["skipped"]), remembered.digest)


def compile_wheel(
    archive: Path, tree: InstalledTree, *, key: Digest, compiler: Compiler, blobs: Blobs, cache: LayerCache
) -> CompiledWheel:
    """
    The bytecode of a wheel: remembered, or else compiled, stored and remembered.

    Args:
        archive: The wheel's file.
        tree: What it becomes.
        key: `bytecode_key` of the wheel.
        compiler: An interpreter; not started if nothing has to be compiled.

    Raises:
        CompilerFailed: The interpreter does not start, or has another version.
    """
    if (known := recall(key, blobs=blobs, cache=cache)) is not None:
        return known
    files: list[tuple[str, int]] = []
    skipped: list[str] = []
    compressor = zstandard.ZstdCompressor(level=1)
    with blobs.writer() as out:
        frame = compressor.compressobj()
        for path, content in compiler.compile(archive, tree):
            if content is None:
                skipped.append(path)
            else:
                files.append((path, len(content)))
                out.write(frame.compress(content))
        out.write(frame.flush())
        # The index is last, since it is known last: its packed and its real size end the blob.
        index = json.dumps({"files": files, "skipped": skipped}).encode()
        packed = compressor.compress(index)
        out.write(packed + _TAIL.pack(len(packed), len(index)))
        digest, size = out.commit()
    cache.put(key, Layer(digest, digest, size, MEDIA_TYPE))
    return CompiledWheel(tuple(files), tuple(skipped), digest)


class _FileToCompile(Protocol):
    """What a local run asks for; see `mlenv.run.interface.SourceFile`."""

    @property
    def source(self) -> Path: ...
    @property
    def target(self) -> Path: ...
    @property
    def name(self) -> str: ...


def compile_to_files(interpreter: Path, sources: Sequence[_FileToCompile], progress: Progress) -> None:
    """
    Write the bytecode of files on disk, on all cores; meets `mlenv.run.interface.BytecodeCompiler`. What `is_compiled`
    leaves out, and what is no Python of this version, is left out.

    Raises:
        CompilerFailed: The interpreter does not start.
    """
    wanted = [each for each in sources if is_compiled(each.source.as_posix())]
    with (
        progress.step("Compiling bytecode", total=len(wanted), unit="items") as step,
        Compiler(interpreter, None) as compiler,
    ):
        for target, content in compiler.compile_files((each.source, each.name, str(each.target)) for each in wanted):
            if content is not None:
                Path(target).parent.mkdir(parents=True, exist_ok=True)
                Path(target).write_bytes(content)
            step.advance(1)
