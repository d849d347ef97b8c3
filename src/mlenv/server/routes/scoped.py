"""What routes of a workspace and of a registry share: they are written once, and stand under both."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Path

from mlenv.api.wire import NAME_LIMIT
from mlenv.api.wire_problems import PROBLEM_TYPE
from mlenv.server.direct import DirectRoute

EnvironmentPath = Annotated[str, Path(min_length=1, max_length=NAME_LIMIT, description="An environment's name.")]
VersionPath = Annotated[str, Path(min_length=1, max_length=NAME_LIMIT, description="A version.")]
LabelPath = Annotated[str, Path(min_length=1, max_length=NAME_LIMIT, description="A label.")]

#: Every other answer than those that a route names is a problem document (RFC 9457).
_PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    "default": {
        "description": "A problem",
        "content": {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
}


def scoped() -> APIRouter:
    """A router for routes below `/workspaces/{workspace}` and `/registries/{registry}`, to be given to `under_both`."""
    return APIRouter(responses=_PROBLEMS, route_class=DirectRoute)


def under_both(inner: APIRouter, tag: str) -> APIRouter:
    """The router's routes, in a workspace and in a registry."""
    router = APIRouter(tags=[tag])
    # `opened` reads the namespace's name; `bodies.complete` describes it.
    router.include_router(inner, prefix="/workspaces/{workspace}")
    router.include_router(inner, prefix="/registries/{registry}")
    return router
