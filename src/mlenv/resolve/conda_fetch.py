"""Downloads from conda channels: from their mirrors, with what lets us in there."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from mlenv.core.spec import PUBLIC, Sources
from mlenv.resolve.conda_credentials import ChannelAccess
from mlenv.resolve.failures import IndexUnreachable
from mlenv.resolve.index_http import HttpFetcher

if TYPE_CHECKING:
    from mlenv.resolve.index_http import _Response


class ChannelFetcher(HttpFetcher):
    """
    Brings files of channels, as `HttpFetcher` does those of indexes.

    Args:
        access: Asked for each file: from where, and with which credentials. Asked for when the first file is.
        options: As those of `HttpFetcher`.
    """

    def __init__(self, access: Callable[[], ChannelAccess], **options: Any) -> None:
        super().__init__(**options)
        self._find_access = access
        self._access: ChannelAccess | None = None

    def stream(self, url: str, sources: Sources = PUBLIC, *, accept: str = "*/*") -> Iterator[bytes]:
        """The bytes at a URL, from the first of its mirrors that has any. Raises as `HttpFetcher.stream`."""
        *others, last = self._channels().mirrored(url)
        for each in others:
            begun = False
            try:
                for chunk in super().stream(each, sources, accept=accept):
                    begun = True
                    yield chunk
                return
            except IndexUnreachable:
                # What has begun can't be begun again: the other mirror's bytes may be others.
                if begun:
                    raise
        yield from super().stream(last, sources, accept=accept)

    def _channels(self) -> ChannelAccess:
        if self._access is None:
            self._access = self._find_access()
        return self._access

    def _send(self, method: str, url: str, headers: dict[str, str], sources: Sources) -> "_Response":
        access = self._channels()
        response = self._ask(access, method, url, headers)
        if response.status in (401, 403) and access.ask_keyring(url):
            response.close()
            response = self._ask(access, method, url, headers)
        return response

    def _ask(self, access: ChannelAccess, method: str, url: str, headers: dict[str, str]) -> "_Response":
        secret = access.secret_for(url)
        if secret is None:
            return self._request(method, url, headers, None)
        return self._request(method, secret.address(url), headers, secret.authorization)
