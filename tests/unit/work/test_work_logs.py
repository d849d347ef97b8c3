"""Logs: whole, with times, without secrets, as a file and then as a blob."""

import re
import threading
from pathlib import Path

import pytest

from mlenv.core.digest import Digest
from mlenv.errors import InvalidInput
from mlenv.store.oci import OciLayout
from mlenv.work.jobs import _Output
from mlenv.work.logs import LogNotFound, Logs
from mlenv.work.worker import secrets_of

_LINE = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (.*)")


@pytest.fixture
def logs(tmp_path: Path) -> Logs:
    (tmp_path / "logs").mkdir()
    return Logs(tmp_path / "logs", OciLayout(tmp_path / "oci"))


def _texts(logs: Logs, id: str = "a") -> list[bytes]:
    data = logs.read(id, limit=1 << 30)
    assert data.endswith(b"\n")
    found = [_LINE.fullmatch(line) for line in data.split(b"\n")[:-1]]
    assert all(found), data
    return [match[1] for match in found if match]


def test_lines_have_times_and_come_whole_however_they_are_cut(logs: Logs) -> None:
    writer = logs.writer("a")
    writer.line("begun\nagain")
    for piece in (b"one", b" two\nthr", b"ee\n", b"\n", "é".encode()[:1], "é".encode()[1:], b"\xff end"):
        writer.output(piece)
    writer.close()
    assert _texts(logs) == [b"begun", b"again", b"one two", b"three", b"", "é\ufffd end".encode()]


def test_a_line_is_seen_as_soon_as_it_is_written(logs: Logs) -> None:
    writer = logs.writer("a")
    writer.output(b"first\nsec")
    assert _texts(logs) == [b"first"]
    size = logs.size("a")
    writer.output(b"ond\n")
    assert logs.read("a", start=size).endswith(b" second\n")
    writer.close()


def test_a_line_without_an_end_is_kept_whole(logs: Logs) -> None:
    writer = logs.writer("a")
    for _ in range(300):
        writer.output(b"x" * 1000)
    writer.output(b"\nnext\n")
    writer.close()
    assert _texts(logs) == [b"x" * 300_000, b"next"]


def test_secrets_do_not_come_in(logs: Logs) -> None:
    environment = {"UV_INDEX_PRIVATE_PASSWORD": "correct-horse", "MY_TOKEN": "battery staple", "HOME": "/root"}
    secrets = secrets_of(environment, "postgresql://u:p%40ss-word@db.example.org/x", None)
    writer = logs.writer("a", secrets)
    writer.output(b"correct-horse, battery staple, p@ss-word and p%40ss-word at /root\n")
    writer.output(b"https://user:hunter2@example.org/simple\nco")
    writer.output(b"rrect-horse\n")
    writer.close()
    assert _texts(logs) == [
        b"****, ****, **** and **** at /root",
        b"https://****@example.org/simple",
        b"****",
    ]


def test_several_threads_do_not_mix_their_lines(logs: Logs) -> None:
    writer = logs.writer("a")

    def write(name: str) -> None:
        for _ in range(200):
            writer.line(name * 50)

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    writer.close()
    assert sorted(_texts(logs)) == sorted(name.encode() * 50 for name in "abcd" for _ in range(200))


def test_another_process_goes_on_with_a_log(logs: Logs) -> None:
    for text in ("one", "two"):
        writer = logs.writer("a")
        writer.line(text)
        writer.close()
    assert _texts(logs) == [b"one", b"two"]


def test_an_ended_log_is_a_blob_with_the_same_bytes(logs: Logs) -> None:
    writer = logs.writer("a")
    writer.line("one")
    writer.close()
    data = logs.read("a")
    kept = logs.keep("a")
    assert kept == Digest.of(data)
    assert logs.read("a") == data
    logs.forget("a")
    logs.forget("a")
    assert (logs.read("a", kept), logs.size("a", kept)) == (data, len(data))
    assert logs.read("a", kept, start=5, limit=3) == data[5:8]
    assert logs.read("a", kept, start=len(data)) == b""
    with pytest.raises(LogNotFound):
        logs.read("a")
    assert logs.keep("a") is None


@pytest.mark.parametrize("id", ["", "../a", "a/b", ".a", "a\0b", "a" * 256, "a\n"])
def test_ids_that_are_no_names_of_files_are_refused(logs: Logs, id: str) -> None:
    with pytest.raises(InvalidInput):
        logs.path(id)


def test_a_log_that_reaches_its_limit_says_where_it_is_cut(logs: Logs) -> None:
    writer = logs.writer("a", limit=200)
    writer.line("attempt 1 begins")
    for number in range(100):
        writer.output(f"line {number}\nhalf a ".encode())
        writer.output(b"line\n")
    writer.line("succeeded")
    writer.close()
    begun, *output, cut, end = _texts(logs)
    assert begun == b"attempt 1 begins"
    whole = [each for number in range(100) for each in (b"line %d" % number, b"half a line")]
    assert len(output) > 3
    assert output[:-1] == whole[: len(output) - 1]
    assert whole[len(output) - 1].startswith(output[-1])
    assert b"the log is cut here" in cut
    assert b"200 bytes" in cut
    assert end == b"succeeded"
    again = logs.writer("a", limit=200)
    again.line("attempt 2 begins")
    again.output(b"more\nand more")
    again.close()
    assert _texts(logs)[-2] == b"attempt 2 begins"
    assert b"the log is cut here" in _texts(logs)[-1]


def test_a_line_that_is_longer_than_the_limit_is_cut_within(logs: Logs) -> None:
    writer = logs.writer("a", limit=100_000)
    for _ in range(40):
        writer.output(b"x" * 10_000)
    writer.close()
    line, cut = _texts(logs)
    assert set(line) == {ord("x")}
    assert logs.size("a") <= 100_000 + 200
    assert b"100000 bytes" in cut


def test_the_log_of_a_job_has_a_limit_too(tmp_path: Path) -> None:
    output = _Output(tmp_path / "job.log", 20)
    for _ in range(10):
        output.write(b"0123456789\n")
    output.say("error: it failed")
    output.close()
    first, second, cut, said, rest = (tmp_path / "job.log").read_text().split("\n")
    assert (first, second, said, rest) == ("0123456789", "012345678", "mlenv: error: it failed", "")
    assert "the log is cut here" in cut


def test_a_log_is_there_all_the_while_it_becomes_a_blob(logs: Logs) -> None:
    def begin_and_forget() -> None:
        for _ in range(2000):
            logs.path("a").write_bytes(b"done\n")
            logs.forget("a")

    logs.path("a").write_bytes(b"done\n")
    kept = logs.keep("a")
    thread = threading.Thread(target=begin_and_forget)
    thread.start()
    sizes, texts = set[int](), set[bytes]()
    while thread.is_alive():
        sizes.add(logs.size("a", kept))
        texts.add(logs.read("a", kept))
    thread.join()
    assert sizes <= {0, 5}
    assert texts <= {b"", b"done\n"}
    assert (logs.size("a", kept), logs.read("a", kept)) == (5, b"done\n")
