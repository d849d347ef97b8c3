"""Which certificate authorities downloads trust: the machine's, or Mozilla's where the machine has none of its own."""

import ssl
from functools import cached_property
from http.client import HTTPSConnection
from typing import Any
from urllib.request import HTTPSHandler, Request


def trusting_context() -> ssl.SSLContext:
    """
    A context for connections to indexes, with `SSL_CERT_FILE` and `SSL_CERT_DIR` honoured (OpenSSL, SSL_CTX_load_verify_locations).

    Python from python.org has no authorities on macOS until a script of its installer is run: certifi has them.
    """
    context = ssl.create_default_context()
    paths = ssl.get_default_verify_paths()
    if paths.cafile is None and paths.capath is None and not context.get_ca_certs():
        import certifi

        context.load_verify_locations(certifi.where())
    return context


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
