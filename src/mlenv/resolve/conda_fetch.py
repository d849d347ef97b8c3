"""Downloads from conda channels: from their mirrors, with what lets us in there."""

from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

from mlenv.core.site_policy import AddressNotListed
from mlenv.core.spec import PUBLIC, Sources
from mlenv.resolve.conda_credentials import ChannelAccess
from mlenv.resolve.conda_failures import ChannelRefused, ChannelUnreachable
from mlenv.resolve.failures import CredentialsRefused, IndexUnreachable
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

    def stream(self, url: str, sources: Sources = PUBLIC, *, accept: str = "*/*") -> Generator[bytes, None, None]:
        """
        The bytes at a URL, from the first of its mirrors that has any.

        Raises:
            ChannelUnreachable, ChannelRefused: As `HttpFetcher.stream` raises `IndexUnreachable`, `CredentialsRefused`.
            AddressNotListed: The guard lets nothing be fetched from there, or from where its mirror leads.
        """
        *others, last = self._channels().mirrored(url)
        for each in others:
            begun = False
            try:
                for chunk in self._stream_from(each, url, accept):
                    begun = True
                    yield chunk
                return
            except IndexUnreachable:
                # What has begun can't be begun again: the other mirror's bytes may be others.
                if begun:
                    raise
        yield from self._stream_from(last, url, accept)

    def _stream_from(self, place: str, url: str, accept: str) -> Iterator[bytes]:
        shown = self._channels().shown(place, url)
        try:
            yield from super().stream(place, accept=accept)
        except IndexUnreachable as error:
            raise ChannelUnreachable(shown, error.why, hint=error.hint) from error
        except CredentialsRefused as error:
            raise ChannelRefused(shown, error.status) from error
        except AddressNotListed as error:
            if place == url:
                raise
            raise AddressNotListed(shown, "its mirror leads to what is not listed") from error

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
