"""What a build's process reports of a failure: whether another attempt may do better."""

import io
import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from mlenv.core.site_policy import AddressNotListed
from mlenv.errors import MlenvError, Unavailable
from mlenv.resolve.conda import UnusableRecord
from mlenv.resolve.conda_failures import ChannelNotFound, ChannelRefused, ChannelUnreachable
from mlenv.resolve.conda_process import CondaCrashed, CondaMissing, CondaTimeout
from mlenv.resolve.failures import CredentialsRefused, IndexUnreachable, VersionConflict
from mlenv.work import child

_URL = "https://conda.example.org/forge"
_DOWN = ChannelUnreachable(_URL, "connection refused")


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Exception], dict[str, Any]]]:
    """What is reported of a build whose store fails in some way."""
    before = signal.getsignal(signal.SIGTERM)

    def run(error: Exception) -> dict[str, Any]:
        @contextmanager
        def failing(*_: object) -> Iterator[Any]:
            raise error
            yield

        order = child.Order("/home", "scope", "build", "a", "1", "linux/amd64", "gzip", None, None, {"indexes": []})
        reading, writing = os.pipe()
        monkeypatch.setenv("MLENV_REPORTS", str(writing))
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(order.to_json())))
        assert child.main(failing) == 0
        with open(reading, "rb", closefd=True) as file:
            found: dict[str, Any] = json.loads(file.readline())
        return found

    yield run
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (Unavailable("the database is away"), True),
        (IndexUnreachable("https://index.example.org/simple", "connection refused"), True),
        (_DOWN, True),
        (CondaTimeout("solving conda packages", 600), True),
        (CredentialsRefused("https://index.example.org/simple", 401), False),
        (ChannelRefused(_URL, 401), False),
        (ChannelNotFound(_URL), False),
        (UnusableRecord(f"{_URL}/noarch/num-1.0-0.conda", "it has no sha256"), False),
        (CondaCrashed("was ended by SIGABRT", ""), False),
        (CondaMissing(""), False),
        (VersionConflict("num=2 and num=1 exclude each other"), False),
        (AddressNotListed("http://10.0.0.1/x", "it is not listed"), False),
        (ExceptionGroup("two", [_DOWN, IndexUnreachable("x", "y")]), True),
        (ExceptionGroup("two", [_DOWN, ChannelRefused(_URL, 403)]), False),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, Exception) else "",
)
def test_only_what_may_pass_is_tried_again(
    report: Callable[[Exception], dict[str, Any]], error: MlenvError, again: bool
) -> None:
    told = report(error)
    assert told["again"] is again
    assert told["failed"]
