"""Figures for Prometheus: requests, builds, and the process itself."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest, values
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
#: Where several processes of one server put their figures together; prometheus-client reads this.
SHARED_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
#: Upper ends of the classes of durations, in seconds.
_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
#: How long a count of builds is good for, in seconds.
_FRESH: Final = 5.0

#: How many builds are in each state.
BuildStates = Callable[[], Mapping[str, int]]


class Metrics:
    """
    The figures of one process, or, where several share a directory (`SHARED_VARIABLE`), of all of them.

    Args:
        build_states: Counts builds by state; None where nobody can.
    """

    def __init__(self, build_states: BuildStates | None = None) -> None:
        self._own = CollectorRegistry(auto_describe=False)
        self._requests = Histogram(
            "mlenv_http_request_seconds",
            "How long requests took, by route, method and status.",
            ("method", "route", "status"),
            buckets=_BUCKETS,
            registry=self._own,
        )
        self._failures = Counter("mlenv_http_failures", "Requests that failed inside.", ("route",), registry=self._own)
        self._children: dict[tuple[str, str, int], Histogram] = {}
        self._shared = os.environ.get(SHARED_VARIABLE)
        self._gathered = self._own
        if self._shared:
            self._gathered = CollectorRegistry()
            MultiProcessCollector(self._gathered, path=self._shared)  # type: ignore[no-untyped-call]
        else:
            ProcessCollector(registry=self._own)
        if build_states is not None:
            self._gathered.register(_Builds(build_states))

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Note one request."""
        # A client can send any method; only known ones may become a series of figures.
        key = (method if method in _METHODS else "OTHER", route, status)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = self._requests.labels(key[0], route, str(status))
        child.observe(seconds)
        if status >= 500:
            self._failures.labels(route).inc()

    def text(self) -> bytes:
        """All figures, in Prometheus' text form."""
        return bytes(generate_latest(self._gathered))


_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class _Builds(Collector):
    """Counts builds when somebody looks, and not more often than every few seconds."""

    def __init__(self, count: BuildStates) -> None:
        self._count = count
        self._known: Mapping[str, int] = {}
        self._until = 0.0

    def collect(self) -> Iterator[Metric]:
        now = time.monotonic()
        if now >= self._until:
            self._known, self._until = self._count(), now + _FRESH
        family = GaugeMetricFamily("mlenv_builds", "Builds by state.", labels=["state"])
        for state, number in sorted(self._known.items()):
            family.add_metric([state], number)
        yield family


def share(directory: Path) -> None:
    """Let this process and those that it starts put their figures together in a directory that is empty."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.environ[SHARED_VARIABLE] = str(directory)
    # It is looked at when the library is imported, which has happened.
    values.ValueClass = values.get_value_class()  # type: ignore[no-untyped-call]
