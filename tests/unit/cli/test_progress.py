"""How long work is told of, in a log and on a terminal."""

import io
import re
import threading

import pytest

from mlenv.cli.printer import Printer
from mlenv.cli.progress import LineProgress, TerminalProgress, human_size, progress_for
from mlenv.core.progress import Progress, Silent


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_line_says_how_a_step_ended() -> None:
    stream = io.StringIO()
    progress: Progress = progress_for(Printer(stderr=stream))
    assert isinstance(progress, LineProgress)
    with progress.step("Resolving") as step:
        step.note("9 packages")
        step.note("12 from cache")
    assert re.fullmatch(r"Resolving … done in \d+\.\d s \(12 from cache\)\n", stream.getvalue())


def test_line_says_size_and_speed_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([100.0, 102.0])
    monkeypatch.setattr("mlenv.cli.progress.time.monotonic", lambda: next(times))
    stream = io.StringIO()
    with progress_for(Printer(stderr=stream)).step("Fetching", total=3_000_000, unit="bytes") as step:
        step.advance(1_000_000)
        step.advance(2_000_000)
    assert stream.getvalue() == "Fetching … done in 2.0 s (3.0 MB, 1.5 MB/s)\n"


def failing(progress: Progress) -> None:
    with progress.step("Resolving"):
        raise ValueError("no answer")


def test_failure_is_told() -> None:
    stream = io.StringIO()
    with pytest.raises(ValueError, match="no answer"):
        failing(progress_for(Printer(stderr=stream)))
    assert stream.getvalue().startswith("Resolving … failed in ")


def test_quiet_is_silent() -> None:
    stream = io.StringIO()
    progress = progress_for(Printer(stderr=stream, quiet=True))
    with progress.step("Resolving"):
        progress.warn("careful")
    assert isinstance(progress, Silent)
    assert stream.getvalue() == ""


def test_terminal_shows_bars_and_leaves_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    progress = progress_for(Printer(stderr=stream))
    assert isinstance(progress, TerminalProgress)
    with progress.step("Fetching [b]", total=10, unit="bytes") as outer, progress.step("Inner") as inner:
        outer.advance(10)
        inner.note("\x1b]0;evil\x07")
        progress.warn("care[ful]")
    text = stream.getvalue()
    assert "Fetching [b] … done in" in text
    assert "warning: care[ful]" in text
    assert "\x1b]0;" not in text
    assert text.rindex("Inner … done") < text.rindex("Fetching [b] … done")


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()], ids=["log", "terminal"])
def test_steps_of_many_threads_are_counted(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    progress = progress_for(Printer(stderr=stream))

    def work(number: int) -> None:
        with progress.step(f"step {number}", total=100) as step:
            for _ in range(100):
                shared.advance(1)
                step.advance(1)

    with progress.step("all", total=800, unit="bytes") as shared:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    text = stream.getvalue()
    assert all(f"step {number} … done" in text for number in range(8))
    assert "(800 B" in text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_949, "999.9 kB"), (999_950, "1.0 MB"), (5e12, "5000.0 GB")],
)
def test_sizes_for_people(count: float, text: str) -> None:
    assert human_size(count) == text
