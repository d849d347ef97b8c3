"""What can be done with environments through Azure's dialect, in workspaces and in registries alike."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import urlencode

from fastapi import Query, Request
from msgspec.structs import replace

from mlenv.core.environment import Environment, EnvironmentVersion, View
from mlenv.core.reference import Reference, parse_name, parse_version
from mlenv.core.refusals import VersionConflict
from mlenv.core.spec import Spec
from mlenv.errors import Conflict, InvalidInput, NotFound
from mlenv.server.azure.addresses import Address, base_of
from mlenv.server.azure.bodies import VersionProperties
from mlenv.server.azure.definitions import to_definition
from mlenv.server.azure.environment_documents import ANONYMOUS, environment_document, version_document
from mlenv.server.routes.paging import InvalidCursor, read_cursor, write_cursor
from mlenv.service.environments import Change, Created, check_spec
from mlenv.service.services import Services

T = TypeVar("T")

#: Entries of a page, if the client does not say.
_PAGE: Final = 100

ViewQuery = Annotated[str | None, Query(alias="listViewType", max_length=40)]
OrderQuery = Annotated[str | None, Query(alias="$orderBy", max_length=100)]
TopQuery = Annotated[int | None, Query(alias="$top", ge=1)]
TokenQuery = Annotated[str | None, Query(alias="$skipToken", max_length=2048)]


class AlreadyRegistered(Conflict):
    """The version is there with other content. The client tries the next one when it reads this."""

    hint = "leave the version out to get the next one, or name a version that is free"

    def __init__(self, name: str, version: str, difference: Sequence[str] = ()) -> None:
        super().__init__(f"Environment {name} with version {version} is already registered and cannot be changed.")
        self.name, self.version, self.difference = name, version, tuple(difference)


class VersionsAreKept(Conflict):
    """A version was to be deleted."""

    hint = "archive it: it is hidden from lists then, and stays usable where it is used"
    status = 405

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} can't be deleted: what was registered is kept, since jobs and deployments refer to it"
        )


class UnknownQuery(InvalidInput):
    """A list was asked for in a way that is not known."""

    def __init__(self, name: str, value: str, known: str) -> None:
        super().__init__(f"query {name}: {value!r} is not known; expected {known}")


def address_of(request: Request, services: Services) -> Address:
    """What things in the request's namespace are called."""
    return Address(services.scope, base_of(request))


def get_version(services: Services, name: str, version: str) -> EnvironmentVersion:
    """One version. Raises `EnvironmentNotFound`, `VersionNotFound`, `InvalidName`."""
    return services.environments.version(Reference(parse_name(name), parse_version(version)))


def get_environment(services: Services, name: str) -> Environment:
    """One environment. Raises `EnvironmentNotFound`, `InvalidName`."""
    return services.environments.environment(Reference(parse_name(name)))


def put_version(
    services: Services,
    name: str,
    version: str,
    properties: VersionProperties,
    *,
    prepare: Callable[[Spec], Spec] | None = None,
) -> Created:
    """
    Register a version, or set what may change of one that is there.

    The client has one request for both, for archiving and for restoring. It always says whether the version is to be
    archived, so that registering an archived one again restores it.

    Args:
        prepare: What is to become of the content before it is registered.

    Raises:
        AlreadyRegistered: It is there with other content.
        EnvironmentArchived: It is to be restored while its whole environment is archived.
        InvalidInput, ExceptionGroup: What was sent makes no sense.
    """
    reference = Reference(parse_name(name), parse_version(version))
    stored = _stored(services, reference)
    definition = to_definition(reference.name, parse_version(version), properties, stored)
    if prepare is not None:
        definition = replace(definition, spec=prepare(definition.spec))
    if stored is not None:
        _check_fixed(stored, definition.spec, properties)
    archived = bool(properties.is_archived)
    # NOTE: what was read and is sent back has `autoRebuild`, which the client never sends of itself. That is how
    # restoring one version is told from registering it again.
    if stored is not None and stored.archived and not archived and properties.auto_rebuild is not None:
        services.environments.set_archived(reference, False)
    if stored is None or not (stored.archived and archived):
        with told_as_azure(name, version):
            created = services.environments.create(definition)
    else:
        created = Created(stored, new=False)
    change = Change(
        description=properties.description if archived or properties.description == "" else None,
        replace_tags=definition.tags if properties.tags is not None and (archived or not properties.tags) else None,
    )
    if archived or change != Change():
        updated = services.environments.update(reference, change, archived=True if archived else None)
        created = replace(created, version=updated)
    return created


@contextmanager
def told_as_azure(name: str, version: str) -> Iterator[None]:
    try:
        yield
    except VersionConflict as error:
        raise AlreadyRegistered(name, version, error.difference) from error


def _stored(services: Services, reference: Reference) -> EnvironmentVersion | None:
    try:
        return services.environments.version(reference)
    except NotFound:
        return None


def _check_fixed(stored: EnvironmentVersion, given: Spec, properties: VersionProperties) -> None:
    """Refuse other content than that which is stored, and what is no content at all."""
    check_spec(given)
    if stored.spec.digest != given.digest:
        conflict = VersionConflict(stored.name, stored.version, stored=stored.spec, given=given)
        raise AlreadyRegistered(stored.name, stored.version, conflict.difference)
    rebuild = stored.details.get("autoRebuild", "Disabled")
    if properties.auto_rebuild is not None and properties.auto_rebuild.lower() != rebuild.lower():
        line = f"autoRebuild: {rebuild} → {properties.auto_rebuild}"
        raise AlreadyRegistered(stored.name, stored.version, [line])


def set_archived(services: Services, name: str, archived: bool) -> Environment:
    """Archive or restore an environment with all its versions. Raises `EnvironmentNotFound`."""
    found = services.environments.set_archived(Reference(parse_name(name)), archived)
    assert isinstance(found, Environment)
    return found


def list_environments(
    request: Request, services: Services, view: str | None, top: int | None, token: str | None
) -> dict[str, Any]:
    """A page of environments. Those without a name of their own are not in it."""
    address = address_of(request, services)
    return _page(
        request,
        top,
        token,
        lambda limit, after: services.registry.environments(_view(view), limit=limit, after=after),
        lambda each: each.name,
        lambda each: None if each.name == ANONYMOUS else environment_document(each, address),
    )


def list_versions(
    request: Request,
    services: Services,
    name: str,
    view: str | None,
    order: str | None,
    top: int | None,
    token: str | None,
) -> dict[str, Any]:
    """A page of versions, the newest first."""
    if order is not None and order.split() and order.lower().split() not in (["createdtime"], ["createdtime", "desc"]):
        raise UnknownQuery("$orderBy", order, "`createdtime desc`")
    address, checked = address_of(request, services), parse_name(name)
    return _page(
        request,
        top,
        token,
        lambda limit, after: services.registry.versions(checked, _view(view), limit=limit, after=after),
        lambda each: each.version,
        lambda each: version_document(each, address),
    )


def _view(text: str | None) -> View:
    for view in View:
        if text is None or text.lower() == view.lower():
            return view
    raise UnknownQuery("listViewType", text or "", ", ".join(View))


def _page(
    request: Request,
    top: int | None,
    token: str | None,
    read: Callable[[int, str | None], list[T]],
    key: Callable[[T], str],
    document: Callable[[T], dict[str, Any] | None],
) -> dict[str, Any]:
    """
    One page, with the address of the next. Who asks for so many gets no more, if one page can hold them.

    The address has no `+`, which the client would read as a space.
    """
    size = min(top or _PAGE, _PAGE)
    list_name = request.url.path.lower()
    after = read_cursor(list_name, token) if token else None
    if isinstance(after, int):
        raise InvalidCursor
    found = read(size + 1, after)
    shown = found[:size]
    answer: dict[str, Any] = {"value": [made for each in shown if (made := document(each)) is not None]}
    rest = None if top is None else top - len(shown)
    if len(found) > size and (rest is None or rest > 0):
        query = {key: value for key, value in request.query_params.items() if key not in {"$skipToken", "$top"}}
        query |= {"$skipToken": write_cursor(list_name, key(shown[-1]))} | ({} if rest is None else {"$top": str(rest)})
        path = request.scope.get("raw_path", b"").decode("ascii", "replace").partition("?")[0] or request.url.path
        answer["nextLink"] = f"{base_of(request)}{path}?{urlencode(query, errors='replace').replace('+', '%20')}"
    return answer
