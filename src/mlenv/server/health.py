"""Whether the server is alive, whether it is ready, and its figures: what whoever looks after it asks for."""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from fastapi import APIRouter, Request
from msgspec import Struct
from starlette.responses import JSONResponse, Response

from mlenv.core.disk_faults import disk_fault
from mlenv.core.redact import redact
from mlenv.errors import MlenvError
from mlenv.server.door import public
from mlenv.server.metrics import MEDIA_TYPE, Metrics
from mlenv.server.threads import in_thread

_log = logging.getLogger(__name__)

router: Final = APIRouter(include_in_schema=False)
#: How long an answer about readiness is good for, in seconds: many may ask.
_FRESH: Final = 1.0

#: Raises if something that the server needs is not there.
Check = Callable[[], object]


class Readiness(Struct):
    """
    What the server needs.

    Attributes:
        checks: By name. What a check raises is logged; only its name and kind are told.
        stopping: Whether the server is about to end.
    """

    checks: Mapping[str, Check]
    stopping: bool = False
    _reasons: tuple[str, ...] = ()
    _until: float = 0.0

    def reasons(self) -> tuple[str, ...]:
        """Why the server is not ready; empty if it is."""
        if self.stopping:
            return ("the server is stopping",)
        if time.monotonic() >= self._until:
            self._reasons = tuple(reason for name, check in self.checks.items() if (reason := _try(name, check)))
            self._until = time.monotonic() + _FRESH
        return self._reasons


def _try(name: str, check: Check) -> str | None:
    try:
        check()
    except (MlenvError, OSError) as error:
        _log.warning("not ready: %s: %s", name, redact(str(error)))
        return f"{name}: {type(disk_fault(error) or error).__name__}"
    except Exception as error:  # noqa: BLE001 - whatever it is, the server is not ready
        _log.warning("not ready: %s", name, exc_info=error)
        return f"{name}: {type(error).__name__}"
    return None


@router.get("/healthz")
@public
async def alive() -> Response:
    """The process answers."""
    return JSONResponse({"status": "alive"})


@router.get("/readyz")
@public
async def ready(request: Request) -> Response:
    """Everything is there that requests need; 503, with reasons, if it is not."""
    readiness: Readiness = request.app.state.readiness
    reasons = await in_thread(readiness.reasons)
    document: dict[str, Any] = {"status": "not ready" if reasons else "ready", "reasons": list(reasons)}
    return JSONResponse(document, 503 if reasons else 200, {"Retry-After": "2"} if reasons else None)


@router.get("/metrics")
@public
async def metrics(request: Request) -> Response:
    """Figures for Prometheus."""
    found: Metrics = request.app.state.metrics
    return Response(await in_thread(found.text), media_type=MEDIA_TYPE)
