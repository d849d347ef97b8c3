"""HTTPS for downloads, which trusts what `mlenv.certificates` says."""

import ssl
from functools import cached_property
from http.client import HTTPSConnection
from typing import Any
from urllib.request import HTTPSHandler, Request

from mlenv.certificates import trusting_context


class LazyHTTPSHandler(HTTPSHandler):
    """An HTTPS handler that reads certificates with the first request that needs them."""

    def __init__(self) -> None:
        super(HTTPSHandler, self).__init__()

    @cached_property
    def _trusting(self) -> ssl.SSLContext:
        return trusting_context()

    def https_open(self, req: Request) -> Any:
        """Called by `urllib` for an `https:` request."""
        return self.do_open(HTTPSConnection, req, context=self._trusting)
