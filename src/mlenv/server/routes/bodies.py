"""
Bodies in and out.

A body is parsed and checked in one pass, by a strict model, and an answer is written once from plain data. The
framework would do both twice: on the way in to Python and then to a model, on the way out to a model and then to text.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Generic, TypeVar

from fastapi import Depends, Request, Response
from msgspec import Struct
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException

from mlenv.api.wire import NAME_LIMIT, encode, read
from mlenv.api.wire_problems import Problem

M = TypeVar("M", bound=BaseModel)

_REFERENCE: Final = "#/components/schemas/{model}"
#: Models of bodies, for the OpenAPI document.
_MODELS: Final[dict[str, type[BaseModel]]] = {"Problem": Problem}


class Received(Struct, Generic[M], frozen=True):
    """A body: what it says, and its bytes."""

    value: M
    raw: bytes


def body_of(kind: type[M], *, optional: bool = False) -> Any:
    """
    A dependency: the request's body as a strict model. See `documented` for its schema.

    Args:
        optional: No body is an empty object.
    """
    _MODELS[kind.__name__] = kind

    async def receive(request: Request) -> Received[M]:
        raw = await request.body()
        if optional and not raw:
            raw = b"{}"
        else:
            require_type(request, "application/json")
        return Received(read(kind, raw, "the request's body"), raw)

    return Depends(receive)


def text_body(media_type: str, limit: int) -> Callable[[Request], Awaitable[str]]:
    """A dependency's function: the request's body as UTF-8 text of at most so many bytes."""

    async def receive(request: Request) -> str:
        require_type(request, media_type)
        raw = await request.body()
        if len(raw) > limit:
            raise HTTPException(413, f"a body of {len(raw)} bytes, at most {limit} are taken here")
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise HTTPException(400, f"the request's body is not UTF-8 at byte {error.start}") from error

    return receive


def require_type(request: Request, media_type: str) -> None:
    """Refuse a body of another type with 415 (RFC 9110, section 15.5.16)."""
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != media_type:
        raise HTTPException(415, f"a body of type {given or 'unknown'!r}, expected {media_type}")


def documented(kind: type[BaseModel], *, required: bool = True) -> dict[str, Any]:
    """`openapi_extra` of a route that has `body_of` this model."""
    schema = {"$ref": _REFERENCE.format(model=kind.__name__)}
    return {"requestBody": {"required": required, "content": {"application/json": {"schema": schema}}}}


def answers(kind: type[BaseModel], description: str, *also: tuple[int, str]) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route that answers with this model, with 200 and perhaps other statuses."""
    known: dict[int | str, dict[str, Any]] = {200: {"model": kind, "description": description}}
    return known | {status: {"model": kind, "description": text} for status, text in also}


def answer(document: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Plain data as JSON."""
    return text_answer(encode(document), status, headers)


def text_answer(text: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON that is written already."""
    return Response(text, status, headers, "application/json")


def complete(schema: dict[str, Any]) -> dict[str, Any]:
    """An OpenAPI document with what its routes leave out: the schemas of bodies, and the namespaces in paths."""
    models = [(kind, "validation") for kind in _MODELS.values()]
    _, definitions = models_json_schema(models, ref_template=_REFERENCE)  # type: ignore[arg-type]
    schemas = schema.setdefault("components", {}).setdefault("schemas", {})
    for name, definition in definitions.get("$defs", {}).items():
        schemas.setdefault(name, definition)
    for path, operations in schema["paths"].items():
        for name in ("workspace", "registry"):
            if f"{{{name}}}" in path:
                for operation in operations.values():
                    _name_in_path(operation, name)
    return schema


def _name_in_path(operation: dict[str, Any], name: str) -> None:
    parameters = operation.setdefault("parameters", [])
    if any(each["in"] == "path" and each["name"] == name for each in parameters):
        return
    text = {"type": "string", "minLength": 1, "maxLength": NAME_LIMIT}
    parameters.insert(
        0, {"name": name, "in": "path", "required": True, "description": f"A {name}'s name.", "schema": text}
    )
