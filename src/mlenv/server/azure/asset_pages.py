"""Pages of assets and jobs in Azure's words: `value`, and `nextLink` while there is more."""

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import parse_qsl, urlencode

from fastapi import Request

from mlenv.errors import InvalidInput
from mlenv.server.azure.addresses import base_of

#: Items of a page.
PAGE: Final = 100
#: The name of the token in a query.
SKIP_TOKEN: Final = "$skipToken"


class _Sequenced(Protocol):
    @property
    def sequence(self) -> int: ...


T = TypeVar("T", bound=_Sequenced)


class InvalidSkipToken(InvalidInput):
    """A token that no page was given with."""

    hint = "take `nextLink` as it is, or begin again without a token"

    def __init__(self) -> None:
        super().__init__(f"{SKIP_TOKEN}: not a token of this server")


def page_of(
    request: Request,
    read: Callable[[int, int | None], Sequence[T]],
    show: Callable[[T], dict[str, Any] | None],
    *,
    top: int | None = None,
    token: str | None = None,
) -> dict[str, Any]:
    """
    One page.

    Args:
        read: Gives at most so many items, the newest first, after the one with a sequence number.
        show: An item's document; None leaves it out.
        top: How many items are wanted at all.
        token: What `nextLink` of the page before had.

    Raises:
        InvalidSkipToken: The token is none.
    """
    size = PAGE if top is None else min(top, PAGE)
    found = read(size, None if token is None else _read_token(token))
    page: dict[str, Any] = {"value": [document for each in found if (document := show(each)) is not None]}
    if found and len(found) == size and top is None:
        query = [(key, value) for key, value in parse_qsl(request.url.query) if key != SKIP_TOKEN]
        query.append((SKIP_TOKEN, _write_token(found[-1].sequence)))
        page["nextLink"] = f"{base_of(request)}{request.url.path}?{urlencode(query)}"
    return page


def _write_token(sequence: int) -> str:
    return base64.urlsafe_b64encode(str(sequence).encode()).decode().rstrip("=")


def _read_token(token: str) -> int:
    try:
        text = base64.urlsafe_b64decode(token.encode("ascii") + b"=" * (-len(token) % 4)).decode("ascii")
    except (binascii.Error, ValueError) as error:
        raise InvalidSkipToken from error
    if not text.isdigit() or len(text) > 18:
        raise InvalidSkipToken
    return int(text)
