"""
Worker processes of the interpreter that bytecode is for, on all cores.

Each runs `_compile_worker`, which says how they talk, and why the same source gives the same bytes.
"""

import marshal
import os
import struct
import subprocess
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import IO, Final, Self

from msgspec import Struct

from mlenv.core.layer import PREFIX
from mlenv.core.wheel import InstalledTree
from mlenv.errors import Unavailable

#: Sources that go to a worker at once, in bytes and in number.
_BATCH_BYTES: Final = 1 << 19
_BATCH_FILES: Final = 100
_HELLO_LIMIT: Final = 1000
_ANSWER: Final = struct.Struct("<BI")
#: What workers see of the environment: what the interpreter may need to start, and a fixed hash seed.
_KEPT: Final = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR", "TEMP")


class CompilerFailed(Unavailable):
    """An interpreter that does not start, or is not the one that was asked for."""

    hint = "name an interpreter that has this version, or lock the environment without bytecode"


def is_compiled(path: str) -> bool:
    """
    Whether a source is worth compiling: not in a directory `tests`, which is nearly half of the work for the large
    scientific packages and is hardly ever imported. What is left out still works: Python compiles it when imported.
    """
    return path.endswith(".py") and "/tests/" not in path


def bytecode_path(source: str, cache_tag: str) -> str:
    """`a/b.py` → `a/__pycache__/b.cpython-311.pyc` (PEP 3147)."""
    folder, _, name = source.rpartition("/")
    return f"{folder}/__pycache__/{name.removesuffix('.py')}.{cache_tag}.pyc"


#: File, name in tracebacks, offset, packed size, size, method and CRC-32: see `_compile_worker`.
_Request = tuple[str, str, int, int, int, int, int]


class _Source(Struct, frozen=True):
    path: str
    request: _Request


class Compiler:
    """
    An interpreter with worker processes, started when first needed and ended by `close`, after which they may be
    started again.

    Attributes:
        python: The interpreter's executable.
        version: Its full version, which it must have: `3.11.2`; None for whatever it has.
        workers: How many processes compile at once.
        prefix: Where the files will lie, in tracebacks.
    """

    def __init__(self, python: Path, version: str | None, *, workers: int | None = None, prefix: str = PREFIX) -> None:
        self.python, self.version, self.prefix = python, version, prefix
        self.workers = workers or _cores()
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(cancel_futures=True)
        while self._idle:
            self._idle.pop().close()

    def compile(self, archive: Path, tree: InstalledTree) -> Iterator[tuple[str, bytes | None]]:
        """
        Compile the sources of a wheel.

        Args:
            archive: The wheel's file, which workers open.
            tree: What it becomes.

        Yields:
            Path under the prefix and content, sorted by path; None for a source that can't be compiled.

        Raises:
            CompilerFailed: The interpreter does not start, or has another version.
        """
        return self._compile(self._sources(archive, tree))

    def compile_files(self, files: Iterable[tuple[Path, str, str]]) -> Iterator[tuple[str, bytes | None]]:
        """
        Compile files on disk: each is given with its name in tracebacks, and the path under which it is yielded.

        Yields and raises as `compile`, in the order of `files`.
        """
        return self._compile(
            _Source(path, (os.fspath(file), name, 0, -1, file.stat().st_size, 0, 0)) for file, name, path in files
        )

    def _compile(self, sources: Iterable[_Source]) -> Iterator[tuple[str, bytes | None]]:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.workers, thread_name_prefix="compile")
            pool = self._pool
        pending = deque((batch, pool.submit(self._run, batch)) for batch in _batches(sources))
        try:
            while pending:
                batch, future = pending.popleft()
                for source, content in zip(batch, future.result(), strict=True):
                    yield source.path, content
        finally:
            for _, future in pending:
                future.cancel()

    def _sources(self, archive: Path, tree: InstalledTree) -> list[_Source]:
        assert self.version is not None
        tag = "cpython-" + "".join(self.version.split(".")[:2])
        base = tree.scheme.packages + "/"
        found = []
        for file in tree.parts:
            if (member := file.member) is None or not file.path.startswith(base) or not is_compiled(file.path):
                continue
            offset = tree.wheel.archive.data_offset(member)
            place = (os.fspath(archive), f"{self.prefix}/{file.path}", offset)
            request = (*place, member.packed, member.size, member.method, member.crc)
            found.append(_Source(bytecode_path(file.path, tag), request))
        return sorted(found, key=lambda each: each.path)

    def _run(self, batch: list[_Source]) -> list[bytes | None]:
        """Give a batch to a worker. One that dies has met a source that no interpreter survives: that is left out."""
        results: list[bytes | None] = []
        worker = self._idle.pop() if self._idle else None
        try:
            while len(results) < len(batch):
                if worker is None:
                    worker = _Worker(self.python, self.version)
                if not worker.run([each.request for each in batch[len(results) :]], results):
                    worker.close()
                    worker = None
                    results.append(None)
        except BaseException:
            if worker is not None:
                worker.close()
            raise
        if worker is not None:
            self._idle.append(worker)
        return results


def _worker_script() -> str:
    return resources.files("mlenv.build").joinpath("_compile_worker.py").read_text(encoding="utf-8")


class _Worker:
    """One process of the target interpreter."""

    _starting = threading.Lock()

    def __init__(self, python: Path, version: str | None) -> None:
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
        # NOTE: not -I, which would ignore the hash seed; -s, -S and a clean environment leave nothing of the user's.
        command = [os.fspath(python), "-s", "-S", "-B", "-c", _worker_script()]
        try:
            with self._starting:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    cwd=os.path.abspath(os.sep),
                    env=environment | {"PYTHONHASHSEED": "0", "PYTHONUTF8": "1"},
                )
        except OSError as error:
            raise CompilerFailed(f"{python} does not start: {error}") from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests: IO[bytes] = self._process.stdin
        self._answers: IO[bytes] = self._process.stdout
        self._check_hello(python, version)

    def _check_hello(self, python: Path, version: str | None) -> None:
        head = self._answers.read(4)
        length = int.from_bytes(head, "little")
        hello = (
            self._answers.read(length).decode("utf-8", "replace") if len(head) == 4 and length < _HELLO_LIMIT else ""
        )
        got, _, tag = hello.partition("\0")
        if got != (version or got) or tag != "cpython-" + "".join(got.split(".")[:2]):
            self.close()
            expected = f"CPython {version or '3'}"
            raise CompilerFailed(
                f"{python} can't compile here: expected {expected}, got {got or 'nothing'} {tag}".strip()
            )

    def run(self, requests: list[_Request], results: list[bytes | None]) -> bool:
        """Append the answers to `results`; False if the process died before the last."""
        message = marshal.dumps(requests, 2)
        try:
            self._requests.write(struct.pack("<I", len(message)) + message)
            self._requests.flush()
            for _ in requests:
                head = self._answers.read(_ANSWER.size)
                if len(head) < _ANSWER.size:
                    return False
                skipped, length = _ANSWER.unpack(head)
                content = self._answers.read(length)
                if len(content) < length:
                    return False
                results.append(None if skipped else content)
        except BrokenPipeError:
            return False
        return True

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        try:
            self._requests.close()
        except BrokenPipeError:
            pass
        self._answers.close()


def _batches(sources: Iterable[_Source]) -> Iterator[list[_Source]]:
    batch: list[_Source] = []
    size = 0
    for source in sources:
        batch.append(source)
        size += source.request[4]
        if size >= _BATCH_BYTES or len(batch) >= _BATCH_FILES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1
