"""The application: every route of every dialect, behind the same middlewares, and nothing else."""

import importlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cache
from typing import Any, Final

from fastapi import APIRouter, FastAPI
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute

from mlenv.server import azure, health, routes
from mlenv.server.azure.errors import WRITERS
from mlenv.server.dispatch import Dispatcher, flattened
from mlenv.server.door import public
from mlenv.server.health import Check, Readiness
from mlenv.server.metrics import BuildStates, Metrics
from mlenv.server.middleware import Answered, Surroundings
from mlenv.server.middleware_body import Bodies
from mlenv.server.oci.app import Distribution
from mlenv.server.oci.errors import write_problem
from mlenv.server.problems import Problems
from mlenv.server.routes.bodies import complete
from mlenv.server.settings import Settings
from mlenv.service.site import Site

#: Where the native API is.
API: Final = "/api/v1"


def create_app(
    site: Site,
    settings: Settings,
    *,
    checks: Mapping[str, Check] | None = None,
    build_states: BuildStates | None = None,
    sweep_uploads: Callable[[], object] | None = None,
    log: Callable[[Answered], object] | None = None,
    read_in_loop: Callable[..., Awaitable[Any]] | None = None,
    state: Mapping[str, Any] | None = None,
) -> FastAPI:
    """
    An application that serves a site.

    Args:
        checks: What must not raise for the server to be ready, by name.
        build_states: Counts builds by state, for the figures.
        sweep_uploads: Removes pushed blobs that never became whole, and that nobody goes on with.
        log: Writes down every answer.
        read_in_loop: Calls routes that only read rows (`mlenv.server.door.short`) in the event loop, and waits for the
            database by it; they are called in threads without.
        state: More for routes to find in `app.state`, where `site`, `settings`, `problems`, `readiness` and `metrics`
            are as well; and `routes`, all of them with their whole paths.
    """
    problems = Problems({**WRITERS, "v2": write_problem})
    metrics = Metrics(build_states) if settings.metrics else None
    app = FastAPI(title="mlenv", version="1", openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    known = {
        "site": site,
        "settings": settings,
        "problems": problems,
        "metrics": metrics,
        "read_in_loop": read_in_loop,
        **(state or {}),
    }
    for name, value in known.items():
        setattr(app.state, name, value)
    app.state.readiness = Readiness(dict(checks or {}))
    _include(app, metrics is not None)
    # The framework's own middlewares are left out: they catch errors, as `Surroundings` does.
    distribution = Distribution(
        app.router.middleware_stack, site=site, public_url=settings.public_url, sweep=sweep_uploads or (lambda: None)
    )
    bodies = Bodies(
        distribution,
        problems=problems,
        max_body=settings.max_body,
        max_upload=settings.max_upload,
        timeout=settings.body_timeout,
        rate=settings.body_rate,
        upload_rate=settings.upload_rate / settings.process_count,
    )
    app.middleware_stack = Surroundings(
        bodies,
        problems=problems,
        max_headers=settings.max_headers,
        observer=metrics,
        log=log,
    )
    return app


def preload() -> None:
    """Make all routes: before processes are forked, so that each of them is ready sooner, and shares the memory."""
    _flattened_routers()


def _include(app: FastAPI, with_metrics: bool) -> None:
    """Add all routes: to the application, which describes itself by them, and to what finds them quickly."""
    _add_routers(app)
    count = len(app.router.routes)
    for route in health.router.routes:
        if with_metrics or getattr(route, "path", "") != "/metrics":
            app.router.routes.append(route)
    app.add_api_route(f"{API}/openapi.json", _openapi(app), include_in_schema=False)
    dispatcher = Dispatcher([*_flattened_routers(), *flattened(app.router.routes[count:])])
    app.state.routes = dispatcher.routes
    app.router.middleware_stack = dispatcher


@cache
def _flattened_routers() -> Sequence[BaseRoute]:
    """The routes of all routers, which take half a second to make, and are the same for every application."""
    holder = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    _add_routers(holder)
    return tuple(flattened(holder.router.routes))


def _add_routers(app: FastAPI) -> None:
    for router in _routers(routes.ROUTERS):
        app.include_router(router, prefix=API)
    for router in _routers(azure.ROUTERS):
        app.include_router(router, include_in_schema=False)


def _routers(modules: Sequence[str]) -> list[APIRouter]:
    return [importlib.import_module(name).router for name in modules]


def _openapi(app: FastAPI) -> Any:
    @public
    async def openapi() -> Response:
        """The native API's description."""
        return JSONResponse(complete(app.openapi()))

    return openapi
