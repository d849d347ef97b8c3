"""Progress that is passed on and remembered, so that a build can say afterwards where its time went."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from mlenv.core.progress import Progress, Step
from mlenv.core.records import TimedStep


class _RecordedStep:
    def __init__(self, inner: Step) -> None:
        self._inner = inner
        self.text = ""

    def advance(self, amount: int) -> None:
        self._inner.advance(amount)

    def note(self, text: str) -> None:
        self.text = text
        self._inner.note(text)


class Recorder:
    """Passes progress on to another, and keeps finished steps in `steps` with their durations in seconds."""

    def __init__(self, inner: Progress) -> None:
        self._inner = inner
        self.steps: list[TimedStep] = []

    @contextmanager
    def step(
        self, title: str, *, total: int | None = None, unit: Literal["bytes", "items"] = "items"
    ) -> Iterator[Step]:
        started = time.monotonic()
        with self._inner.step(title, total=total, unit=unit) as inner:
            step = _RecordedStep(inner)
            yield step
        self.steps.append(TimedStep(title, round(time.monotonic() - started, 3), step.text))

    def warn(self, text: str) -> None:
        self._inner.warn(text)

    def line(self, text: str) -> None:
        self._inner.line(text)
