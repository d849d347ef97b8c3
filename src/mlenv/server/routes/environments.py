"""Environments and their versions."""

import json
from typing import Annotated

from fastapi import Query, Request, Response

from mlenv.api import wire
from mlenv.core.access import Operation
from mlenv.core.environment import Environment, EnvironmentVersion, View
from mlenv.core.reference import Reference, parse_name, parse_version
from mlenv.core.refusals import VersionNotFound
from mlenv.server.door import opened, short
from mlenv.server.routes.bodies import Received, answers, body_of, documented, text_answer
from mlenv.server.routes.conditional import (
    UNCHANGED,
    IdempotencyKey,
    IfMatch,
    IfNoneMatch,
    matches,
    once,
    require_match,
    tag_of,
    tagged,
)
from mlenv.server.routes.paging import DEFAULT, CursorQuery, InvalidCursor, LimitQuery, entries, page
from mlenv.server.routes.scoped import EnvironmentPath, VersionPath, scoped, under_both
from mlenv.service.environments import Change
from mlenv.service.services import Services

_inner = scoped()

ViewQuery = Annotated[View, Query(description="Which are shown.")]
Reading = Annotated[Services, opened(Operation.ENVIRONMENT_READ)]
Writing = Annotated[Services, opened(Operation.ENVIRONMENT_WRITE)]


def reference_of(name: str, version: str | None = None) -> Reference:
    """What a path names. Raises `InvalidName`."""
    return Reference(parse_name(name), None if version is None else parse_version(version))


@_inner.get("/environments", responses=answers(wire.EnvironmentPage, "One page"))
@short
def list_environments(
    request: Request,
    services: Reading,
    view: ViewQuery = View.ACTIVE,
    limit: LimitQuery = DEFAULT,
    cursor: CursorQuery = None,
) -> Response:
    """Environments by name."""
    return page(
        request,
        limit,
        cursor,
        lambda size, after: services.registry.environments(view, limit=size, after=after),
        lambda each: each.name,
        wire.environment_document,
        order=view.value,
    )


@_inner.post(
    "/environments",
    responses=answers(wire.CreatedAnswer, "The same content was there before", (201, "A new version")),
    openapi_extra=documented(wire.DefinitionBody),
)
def create_version(
    request: Request,
    services: Writing,
    definition: Annotated[Received[wire.DefinitionBody], body_of(wire.DefinitionBody)],
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Register a version: the one that is named, or else the next one. An equal one that is there already is answered."""

    def create() -> tuple[int, bytes]:
        created = services.environments.create(definition.value.to_core())
        return (201 if created.new else 200), wire.created_text(created.version, created.new)

    status, body = once(request, idempotency_key, definition.raw, create)
    document = json.loads(body)
    location = f"{request.scope['path']}/{document['name']}/versions/{document['version']}"
    headers = {"ETag": tag_of(wire.version_of_created(body)), "Location": location}
    return Response(body, status, headers, "application/json")


@_inner.get("/environments/{name}", responses=answers(wire.EnvironmentAnswer, "The environment") | UNCHANGED)
@short
def show_environment(name: EnvironmentPath, services: Reading, if_none_match: IfNoneMatch = None) -> Response:
    """One environment as a whole."""
    environment = services.environments.environment(reference_of(name))
    return tagged(wire.environment_text(environment), if_none_match)


@_inner.patch(
    "/environments/{name}",
    responses=answers(wire.EnvironmentAnswer, "The environment as it is now"),
    openapi_extra=documented(wire.ArchivedBody),
)
def change_environment(
    name: EnvironmentPath,
    services: Writing,
    change: Annotated[Received[wire.ArchivedBody], body_of(wire.ArchivedBody)],
    if_match: IfMatch = None,
) -> Response:
    """Archive or restore an environment with all its versions."""
    changed = services.environments.set_archived(
        reference_of(name),
        change.value.archived,
        check=lambda seen: require_match(if_match, tag_of(wire.environment_text(seen))),
    )
    assert isinstance(changed, Environment)
    return tagged(wire.environment_text(changed))


@_inner.get("/environments/{name}/versions", responses=answers(wire.VersionPage, "One page"))
@short
def list_versions(
    request: Request,
    name: EnvironmentPath,
    services: Reading,
    view: ViewQuery = View.ACTIVE,
    limit: LimitQuery = DEFAULT,
    cursor: CursorQuery = None,
) -> Response:
    """Versions of an environment, the newest first."""
    environment = parse_name(name)

    def read(size: int, after: str | None) -> list[EnvironmentVersion]:
        try:
            return services.registry.versions(environment, view, limit=size, after=after)
        except VersionNotFound as error:
            raise InvalidCursor from error

    shown, next = entries(request, limit, cursor, read, lambda each: each.version, order=view.value)
    return text_answer(wire.versions_text(shown, next))


@_inner.get("/environments/{name}/versions/{version}", responses=answers(wire.VersionAnswer, "The version") | UNCHANGED)
@short
def show_version(
    name: EnvironmentPath, version: VersionPath, services: Reading, if_none_match: IfNoneMatch = None
) -> Response:
    """One version."""
    found = services.environments.version(reference_of(name, version))
    return tagged(wire.version_text(found), if_none_match)


@_inner.patch(
    "/environments/{name}/versions/{version}",
    responses=answers(wire.VersionAnswer, "The version as it is now"),
    openapi_extra=documented(wire.ChangeBody),
)
def change_version(
    name: EnvironmentPath,
    version: VersionPath,
    services: Writing,
    change: Annotated[Received[wire.ChangeBody], body_of(wire.ChangeBody)],
    if_match: IfMatch = None,
) -> Response:
    """Change description and tags of a version, archive or restore it."""
    asked = change.value
    changed = services.environments.update(
        reference_of(name, version),
        Change(asked.description, asked.tags, asked.set_tags, asked.remove_tags),
        archived=asked.archived,
        only_if=None if if_match is None else lambda seen: matches(if_match, tag_of(wire.version_text(seen))),
    )
    return tagged(wire.version_text(changed))


router = under_both(_inner, "environments")
