"""Tells of long work on stderr: bars on a terminal, one line per step otherwise, nothing when quiet."""

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Final, Literal

from mlenv.cli.printer import Printer, visible
from mlenv.core.progress import Progress, Silent, Step

if TYPE_CHECKING:
    from rich.progress import TaskID

Unit = Literal["bytes", "items"]
#: A step that took less, in seconds, says no speed: it would mean nothing.
_TOO_SHORT: Final = 0.05


def progress_for(printer: Printer) -> Progress:
    """The progress that fits where stderr goes."""
    if printer.quiet:
        return Silent()
    return TerminalProgress(printer) if printer.stderr.isatty() else LineProgress(printer)


def human_size(count: float) -> str:
    """Bytes for people, in powers of 1000: `12.3 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.95 or unit == "GB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"


class _Counter:
    """A step that counts, from any thread."""

    def __init__(self, title: str, unit: Unit) -> None:
        self.title, self.unit = title, unit
        self.done, self.text = 0, ""
        self.started = time.monotonic()
        self._guard = threading.Lock()

    def advance(self, amount: int) -> None:
        with self._guard:
            self.done += amount

    def note(self, text: str) -> None:
        self.text = text

    def summary(self, outcome: str) -> str:
        """`Fetching … done in 1.2 s (34.5 MB, 28.8 MB/s, 12 from cache)`."""
        seconds = time.monotonic() - self.started
        facts = [human_size(self.done)] if self.unit == "bytes" and self.done else []
        if facts and seconds >= _TOO_SHORT:
            facts.append(f"{human_size(self.done / seconds)}/s")
        facts += [self.text] if self.text else []
        return f"{self.title} … {outcome} in {seconds:.1f} s" + (f" ({', '.join(facts)})" if facts else "")


class LineProgress:
    """One line when a step has ended: for logs."""

    def __init__(self, printer: Printer) -> None:
        self._printer = printer
        self._guard = threading.Lock()

    @contextmanager
    def step(self, title: str, *, total: int | None = None, unit: Unit = "items") -> Iterator[Step]:
        """A step; its line says how it ended."""
        counter = _Counter(title, unit)
        outcome = "failed"
        try:
            yield counter
            outcome = "done"
        finally:
            with self._guard:
                self._printer.say(counter.summary(outcome))

    def warn(self, text: str) -> None:
        """A line that says `warning:`."""
        with self._guard:
            self._printer.warn(text)

    def line(self, text: str) -> None:
        """The line."""
        with self._guard:
            self._printer.say(text)


class _BarStep(_Counter):
    def __init__(self, title: str, unit: Unit, bars: Any, task: "TaskID") -> None:
        super().__init__(title, unit)
        self._bars, self._task = bars, task

    def advance(self, amount: int) -> None:
        super().advance(amount)
        self._bars.advance(self._task, amount)

    def note(self, text: str) -> None:
        super().note(text)
        self._bars.update(self._task, note=visible(text))


class TerminalProgress:
    """Bars while steps are under way, then the same lines as in a log. The display lasts as long as a step does."""

    def __init__(self, printer: Printer) -> None:
        self._printer = printer
        self._guard = threading.Lock()
        self._bars: Any = None
        self._steps = 0

    def step(self, title: str, *, total: int | None = None, unit: Unit = "items") -> AbstractContextManager[Step]:
        """A step, with a bar of its own."""
        return self._step(title, total, unit)

    @contextmanager
    def _step(self, title: str, total: int | None, unit: Unit) -> Iterator[Step]:
        bars = self._begin()
        task = bars.add_task(visible(title), total=total, unit=unit, note="")
        step = _BarStep(title, unit, bars, task)
        outcome = "failed"
        try:
            yield step
            outcome = "done"
        finally:
            with self._guard:
                bars.remove_task(task)
                bars.console.print(visible(step.summary(outcome)), markup=False, highlight=False, soft_wrap=True)
                self._end()

    def warn(self, text: str) -> None:
        """A line that says `warning:`, above the bars."""
        with self._guard:
            if self._bars is None:
                self._printer.warn(text)
            else:
                self._bars.console.print(f"warning: {visible(text)}", markup=False, highlight=False, soft_wrap=True)

    def line(self, text: str) -> None:
        """The line, above the bars."""
        with self._guard:
            if self._bars is None:
                self._printer.say(text)
            else:
                self._bars.console.print(visible(text), markup=False, highlight=False, soft_wrap=True)

    def _begin(self) -> Any:
        with self._guard:
            if self._bars is None:
                self._bars = _bars(self._printer)
                self._bars.start()
            self._steps += 1
            return self._bars

    def _end(self) -> None:
        self._steps -= 1
        if self._steps == 0:
            self._bars.stop()
            self._bars = None


def _bars(printer: Printer) -> Any:
    """Bars of rich, whose import is slow, with bytes where bytes are counted."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, Task, TextColumn, TimeElapsedColumn
    from rich.text import Text

    class _Amount(TextColumn):
        def render(self, task: Task) -> Text:
            if task.fields["unit"] == "bytes":
                whole = f" of {human_size(task.total)}" if task.total else ""
                speed = f", {human_size(task.speed)}/s" if task.speed else ""
                return Text(f"{human_size(task.completed)}{whole}{speed}")
            return Text(f"{task.completed:.0f}/{task.total:.0f}" if task.total else "")

    class _Plain(TextColumn):
        def render(self, task: Task) -> Text:
            return Text(self.text_format.format(task=task))

    return Progress(
        SpinnerColumn(),
        _Plain("{task.description}"),
        BarColumn(bar_width=24),
        _Amount(""),
        TimeElapsedColumn(),
        _Plain("{task.fields[note]}"),
        console=Console(file=printer.stderr, stderr=True),
        transient=True,
    )
