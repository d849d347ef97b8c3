"""Locks of versions, as `pylock.toml` (PEP 751)."""

from typing import Annotated, Any, Final, Literal

from anyio import CapacityLimiter, to_thread
from fastapi import Depends, Response

from mlenv.api.files import TOML_LIMIT
from mlenv.api.wire_records import LockOptionsBody
from mlenv.core.access import Operation
from mlenv.core.digest import Digest
from mlenv.core.environment import EnvironmentVersion
from mlenv.core.platform import Platform
from mlenv.core.progress import Silent
from mlenv.server.door import opened
from mlenv.server.routes.bodies import Received, body_of, documented, text_body
from mlenv.server.routes.conditional import UNCHANGED, IfNoneMatch, matches
from mlenv.server.routes.environments import reference_of
from mlenv.server.routes.scoped import EnvironmentPath, VersionPath, scoped, under_both
from mlenv.service.services import Services

_inner = scoped()

#: The media type of TOML (IANA).
_TOML: Final = "application/toml"
#: How many locks a process makes at once. Further ones wait; they hold up nobody else.
_AT_ONCE: Final = CapacityLimiter(4)
_PATH: Final = "/environments/{name}/versions/{version}/locks/{os}/{architecture}"
_CONTENT: Final[dict[str, Any]] = {"content": {_TOML: {"schema": {"type": "string"}}}}

OsPath = Literal["linux", "darwin", "windows"]
ArchitecturePath = Literal["amd64", "arm64"]
Writing = Annotated[Services, opened(Operation.LOCK_WRITE)]


@_inner.get(
    _PATH,
    response_class=Response,
    responses={200: {"description": "The text of its `pylock.toml`", **_CONTENT}, **UNCHANGED},
)
def show_lock(
    name: EnvironmentPath,
    version: VersionPath,
    os: OsPath,
    architecture: ArchitecturePath,
    services: Annotated[Services, opened(Operation.ENVIRONMENT_READ)],
    if_none_match: IfNoneMatch = None,
) -> Response:
    """The lock of a version for a platform, if one was made. Its entity tag is its digest."""
    digest, text = services.lock_files.read(_found(services, name, version), Platform(os, architecture))
    if matches(if_none_match, f'"{digest}"'):
        return Response(status_code=304, headers=_headers(digest))
    return _toml(digest, text)


@_inner.post(
    _PATH,
    response_class=Response,
    responses={200: {"description": "The text of its `pylock.toml`", **_CONTENT}},
    openapi_extra=documented(LockOptionsBody, required=False),
)
async def make_lock(
    name: EnvironmentPath,
    version: VersionPath,
    os: OsPath,
    architecture: ArchitecturePath,
    services: Writing,
    options: Annotated[Received[LockOptionsBody], body_of(LockOptionsBody, optional=True)],
) -> Response:
    """The lock of a version for a platform: the one that was made, or else one that the server makes now."""
    platform = Platform(os, architecture)
    wanted = options.value.to_core() if options.value.model_fields_set else None

    def make() -> Response:
        found = _found(services, name, version)
        services.locking.lock(found, platform, wanted, progress=Silent())
        return _toml(*services.lock_files.read(found, platform))

    return await to_thread.run_sync(make, limiter=_AT_ONCE)


@_inner.put(
    _PATH,
    response_class=Response,
    responses={
        200: {"description": "It was there before", **_CONTENT},
        201: {"description": "It is the version's lock from now on", **_CONTENT},
    },
    openapi_extra={"requestBody": {"required": True, **_CONTENT}},
)
def add_lock(
    name: EnvironmentPath,
    version: VersionPath,
    os: OsPath,
    architecture: ArchitecturePath,
    services: Writing,
    text: Annotated[str, Depends(text_body(_TOML, TOML_LIMIT))],
) -> Response:
    """Take in a lock that a client made, if it is one of this version and platform."""
    digest, new = services.lock_files.add(_found(services, name, version), Platform(os, architecture), text)
    return _toml(digest, text.encode(), 201 if new else 200)


def _found(services: Services, name: str, version: str) -> EnvironmentVersion:
    return services.environments.version(reference_of(name, version))


def _headers(digest: Digest) -> dict[str, str]:
    return {"ETag": f'"{digest}"'}


def _toml(digest: Digest, text: bytes, status: int = 200) -> Response:
    return Response(text, status, _headers(digest), _TOML)


router = under_both(_inner, "locks")
