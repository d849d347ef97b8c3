"""Logging in with a browser: this program listens on loopback, where the browser ends up with a code (RFC 8252, section 7.3)."""

import hashlib
import hmac
import http.server
import secrets
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, urlencode, urlsplit

from mlenv.errors import Forbidden, Unavailable

if TYPE_CHECKING:
    from mlenv.client.http import Http

#: How long somebody may take to log in, in seconds.
PATIENCE: Final = 600.0
_DONE: Final = "<!doctype html><title>mlenv</title><p>You are logged in. You can close this window."
_FAILED: Final = "<!doctype html><title>mlenv</title><p>You are not logged in; the command line says why."


class NotLoggedIn(Forbidden):
    """The login did not succeed."""

    hint = "try again, or log in with a token: `mlenv login URL --token -`"

    def __init__(self, why: str) -> None:
        super().__init__(f"you are not logged in: {why}")


class NobodyCame(Unavailable):
    """Nobody logged in in time."""

    hint = "run it again, and open the address in a browser on this machine"

    def __init__(self, seconds: float) -> None:
        super().__init__(f"nobody logged in within {seconds:.0f} s")


def log_in(http: "Http", tell: Callable[[str], None], *, patience: float = PATIENCE) -> str:
    """
    A token for whoever logs in with their browser.

    Args:
        tell: Is given the address that the browser is to open.
        patience: How long to wait, in seconds.

    Raises:
        NotLoggedIn, NobodyCame: It came to nothing.
        MlenvError: What the server met.
    """
    state, verifier = secrets.token_urlsafe(32), secrets.token_urlsafe(48)
    challenge = urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    with _Listener(state) as listener:
        redirect = f"http://127.0.0.1:{listener.server_address[1]}/done"
        query = urlencode({"redirect": redirect, "state": state, "challenge": challenge})
        tell(f"{http.server}/api/v1/login/start?{query}")
        answer = listener.wait(patience)
    if "code" not in answer:
        raise NotLoggedIn(answer.get("error", "the server sent no code"))
    return str(http.request("POST", "/login/token", json={"code": answer["code"], "verifier": verifier})["secret"])


class _Listener(http.server.HTTPServer):
    """Waits for the one request that knows the state."""

    def __init__(self, state: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.state = state
        self.answer: dict[str, str] | None = None

    def wait(self, patience: float) -> dict[str, str]:
        deadline = time.monotonic() + patience
        while self.answer is None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise NobodyCame(patience)
            self.timeout = left
            self.handle_request()
        return self.answer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that came to nothing is nobody's business."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Listener
    # A connection that says nothing, as browsers open them ahead, must not keep the one that matters waiting for long.
    timeout = 2.0

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        found = {key: values[0] for key, values in parse_qs(parts.query).items()}
        if parts.path != "/done" or not hmac.compare_digest(
            found.get("state", "").encode(), self.server.state.encode()
        ):
            self.send_error(404)
            return
        self.server.answer = found
        body = (_DONE if "code" in found else _FAILED).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: the request has a code in it."""
