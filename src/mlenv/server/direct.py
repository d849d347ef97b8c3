"""
Routes whose functions are called directly: those of the native API.

The framework says which parameters a route has, and describes them in the OpenAPI document. It also reads them from requests,
but in a way that fits every application, and takes longer for it than most of these routes do for the rest. They answer with a
`Response`, and their parameters are single values of path, query and headers, or dependencies: this is all that is done here.
"""

from collections.abc import Awaitable, Callable, Mapping
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from typing import Any, Final, cast, get_args, get_origin

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from msgspec import Struct
from pydantic import BaseModel

from mlenv.server.middleware import Receive, Scope, Send
from mlenv.server.threads import in_thread

#: What a function may ask for elsewhere, and not here.
_ELSEWHERE: Final = (
    "body_params",
    "cookie_params",
    "response_param_name",
    "background_tasks_param_name",
    "security_scopes_param_name",
    "http_connection_param_name",
    "websocket_param_name",
)
#: A page of more entries takes so long to put together that others would wait for it.
_LONG: Final = 100


class DirectRoute(APIRoute):
    """A route that answers with a `Response`. Raises `TypeError` for a function that asks for something else."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self._function = _Function(self.dependant)
        self.app = self._answer

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        faults: list[Mapping[str, Any]] = []
        arguments = await self._function.arguments(request, {}, faults)
        if faults:
            raise RequestValidationError(faults)
        response = await self._function.call(arguments, request)
        await response(scope, receive, send)


class _Function:
    """A function with what it asks for, as the framework found it out."""

    def __init__(self, dependant: Any) -> None:
        self._call: Callable[..., Any] = dependant.call
        unknown = [each for each in _ELSEWHERE if getattr(dependant, each)]
        if unknown or isgeneratorfunction(self._call) or isasyncgenfunction(self._call):
            raise TypeError(f"{self._call.__qualname__} can't be called directly: {', '.join(unknown) or 'it yields'}")
        self._waits, self._short = iscoroutinefunction(self._call), getattr(self._call, "short", False)
        self._request: str | None = dependant.request_param_name
        self._dependencies = [(each.name, _Function(each)) for each in dependant.dependencies]
        self._path = [_Parameter.of("path", each) for each in dependant.path_params]
        self._query = [_Parameter.of("query", each) for each in dependant.query_params]
        self._header = [_Parameter.of("header", each) for each in dependant.header_params]

    def call(self, arguments: Mapping[str, Any], request: Request) -> Awaitable[Any]:
        """
        What it returns. Functions that wait for disks and databases do so in a thread.

        Those that are short are called in the event loop where the database can be waited for there.
        """
        if self._waits:
            return cast("Awaitable[Any]", self._call(**arguments))
        if self._short and arguments.get("limit", 0) <= _LONG and (read_in_loop := request.app.state.read_in_loop):
            return cast("Awaitable[Any]", read_in_loop(self._call, **arguments))
        return in_thread(self._call, **arguments)

    async def arguments(
        self, request: Request, known: dict[Callable[..., Any], Any], faults: list[Mapping[str, Any]]
    ) -> dict[str, Any]:
        """
        What to call it with.

        Args:
            known: What dependencies gave to this request: each is called once.
            faults: Takes what is wrong with parameters.
        """
        found: dict[str, Any] = {}
        for name, dependency in self._dependencies:
            function = dependency._call
            if function not in known:
                before = len(faults)
                its = await dependency.arguments(request, known, faults)
                if len(faults) > before:
                    continue
                known[function] = await dependency.call(its, request)
            if name is not None:
                found[name] = known[function]
        for parameters, texts in (
            (self._path, request.path_params if self._path else {}),
            (self._query, request.query_params if self._query and request.scope["query_string"] else {}),
            (self._header, request.headers if self._header else {}),
        ):
            for each in parameters:
                found[each.name] = each.read(texts, faults)
        if self._request is not None:
            found[self._request] = request
        return found


class _Parameter(Struct, frozen=True):
    """
    One value of a request.

    Attributes:
        key: Its name there.
        default: What it is if it is not there.
        check: Gives the value of a text, and what is wrong with it.
    """

    name: str
    place: str
    key: str
    required: bool
    default: Any
    check: Callable[..., tuple[Any, list[Mapping[str, Any]]]]

    @classmethod
    def of(cls, place: str, field: Any) -> "_Parameter":
        """A parameter, as the framework has it. Raises `TypeError` for one that may be there several times."""
        if _is_several(field.field_info.annotation):
            raise TypeError(f"{field.name} can't be read directly: it is more than one value")
        return cls(field.name, place, field.alias, field.field_info.is_required(), field.default, field.validate)

    def read(self, texts: Mapping[str, Any], faults: list[Mapping[str, Any]]) -> Any:
        """Its value in a request."""
        text = texts.get(self.key)
        location = (self.place, self.key)
        if text is None:
            if self.required:
                faults.append({"type": "missing", "loc": location, "msg": "Field required", "input": None})
            return self.default
        value, wrong = self.check(text, {}, loc=location)
        faults.extend(wrong)
        return value


def _is_several(annotation: Any) -> bool:
    kind = get_origin(annotation) or annotation
    if isinstance(kind, type) and issubclass(kind, BaseModel | Mapping | list | tuple | set | frozenset):
        return True
    return any(map(_is_several, get_args(annotation)))
