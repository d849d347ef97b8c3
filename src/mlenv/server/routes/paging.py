"""Pages of lists, and the cursors that lead from one to the next."""

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, TypeVar

from fastapi import Query, Request, Response

from mlenv.api.wire import PAGE_DEFAULT, PAGE_LIMIT, page_document
from mlenv.errors import InvalidInput
from mlenv.server.routes.bodies import answer

T = TypeVar("T")

_CHECK: Final = 12
CURSOR_LIMIT: Final = 2048

LimitQuery = Annotated[int, Query(ge=1, le=PAGE_LIMIT, description="Most entries of the page.")]
CursorQuery = Annotated[
    str | None,
    Query(
        min_length=1,
        max_length=CURSOR_LIMIT,
        description="Where the page begins: `next` of the page before. It is valid for the same list only.",
    ),
]
DEFAULT: Final = PAGE_DEFAULT


class InvalidCursor(InvalidInput):
    """A cursor that this server did not give out, or gave out for another list."""

    hint = "begin the list anew, without a cursor"

    def __init__(self) -> None:
        super().__init__("the cursor is not one of this list")


class PageTooLarge(InvalidInput):
    """More entries are asked for than this server gives at once."""

    def __init__(self, limit: int, most: int) -> None:
        super().__init__(f"a page of {limit} entries, at most {most} are given here")
        self.limit, self.most = limit, most


def write_cursor(list_name: str, key: str | int) -> str:
    """
    A cursor: base64url (RFC 4648, section 5) of the last key of a page, with a check that binds it to its list.

    NOTE: the check is for mistakes, not against attacks: a cursor says where to go on, and permits nothing.
    """
    payload = json.dumps(key, ensure_ascii=False).encode()
    return base64.urlsafe_b64encode(_check(list_name, payload) + payload).rstrip(b"=").decode()


def read_cursor(list_name: str, cursor: str) -> str | int:
    """The key in a cursor. Raises `InvalidCursor`."""
    try:
        data = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidCursor from error
    check, payload = data[:_CHECK], data[_CHECK:]
    if check != _check(list_name, payload):
        raise InvalidCursor
    key = json.loads(payload)
    assert isinstance(key, str | int)
    return key


def _check(list_name: str, payload: bytes) -> bytes:
    return hashlib.sha256(list_name.encode() + b"\0" + payload).digest()[:_CHECK]


def page(
    request: Request,
    limit: int,
    cursor: str | None,
    read: Callable[[int, Any], Sequence[T]],
    key: Callable[[T], str],
    document: Callable[[T], dict[str, Any]],
    *,
    order: str = "",
) -> Response:
    """
    One page: of `entries`, each as plain data.

    Args:
        document: An entry as plain data.
    """
    shown, next = entries(request, limit, cursor, read, key, order=order)
    return answer(page_document(shown, document, next))


def entries(
    request: Request,
    limit: int,
    cursor: str | None,
    read: Callable[[int, Any], Sequence[T]],
    key: Callable[[T], str],
    *,
    order: str = "",
) -> tuple[Sequence[T], str | None]:
    """
    The entries of one page, and the cursor of the next.

    Args:
        read: Gives at most so many entries after a key, or from the start for None.
        key: An entry's key.
        order: What else makes this list another than others at the same address, such as a filter.
    """
    check_limit(request, limit)
    list_name = f"{request.scope['path']}?{order}"
    after = None if cursor is None else read_cursor(list_name, cursor)
    if isinstance(after, int):
        raise InvalidCursor
    # One more than asked for tells whether there is a next page.
    found = read(limit + 1, after)
    shown = found[:limit]
    return shown, write_cursor(list_name, key(shown[-1])) if len(found) > limit else None


def page_by_number(
    request: Request,
    limit: int,
    cursor: str | None,
    read: Callable[[int], Sequence[T]],
    document: Callable[[T], dict[str, Any]],
    *,
    order: str = "",
) -> Response:
    """One page of a list that is read from its start: `read` gives its first entries, at most so many."""
    check_limit(request, limit)
    list_name = f"{request.scope['path']}?{order}"
    start = 0 if cursor is None else read_cursor(list_name, cursor)
    if not isinstance(start, int):
        raise InvalidCursor
    found = read(start + limit + 1)[start:]
    next = write_cursor(list_name, start + limit) if len(found) > limit else None
    return answer(page_document(found[:limit], document, next))


def check_limit(request: Request, limit: int) -> None:
    """Refuse a page that is larger than the server's settings allow. Raises `PageTooLarge`."""
    most = request.app.state.settings.max_page
    if limit > most:
        raise PageTooLarge(limit, most)
