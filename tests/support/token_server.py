"""
A token server for docker-registry on the loopback interface (docker's "Token Authentication Specification").

It signs what it gives with a key whose certificate the registry trusts: everything for whoever shows the password, and
nothing but pulls of `public/…` for anybody else.
"""

import base64
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from cryptography.hazmat.primitives import serialization
from joserfc import jwt
from joserfc.jwk import ECKey

from mlenv.server.tls import ensure
from support.oci_registry import PASSWORD, USER

REFRESH = "a-refresh-token"


@dataclass
class TokenServer:
    """
    The thing itself.

    Attributes:
        url: The realm.
        life: Seconds that its tokens are good for.
        asked: The scopes of every request that was granted, in order.
        forms: The forms of requests by POST.
    """

    directory: Path
    url: str = ""
    life: int = 300
    asked: list[list[str]] = field(default_factory=list)
    forms: list[dict[str, list[str]]] = field(default_factory=list)

    @property
    def configuration(self) -> dict[str, str]:
        """What docker-registry must know of it."""
        return {
            "realm": self.url,
            "service": "test-registry",
            "issuer": "test-issuer",
            "rootcertbundle": str(self.directory / "keys" / "ca.pem"),
        }

    def token(self, scopes: list[str], *, known: bool) -> str:
        """A token for those scopes that are granted."""
        made = ensure(self.directory / "keys", ["localhost"], now=datetime.now(UTC))
        access = []
        for scope in " ".join(scopes).split():
            kind, name, actions = scope.split(":")
            granted = [each for each in actions.split(",") if known or (each == "pull" and name.startswith("public/"))]
            access.append({"type": kind, "name": name, "actions": granted})
        pem = made.certificate.read_bytes()
        chain = base64.b64encode(_der(pem)).decode()
        now = int(time.time())
        claims = {
            "iss": "test-issuer",
            "aud": "test-registry",
            "sub": USER if known else "",
            "iat": now,
            "nbf": now - 10,
            "exp": now + self.life,
            "jti": str(len(self.asked)),
            "access": access,
        }
        self.asked.append(scopes)
        key = ECKey.import_key(made.key.read_text())
        return jwt.encode({"alg": "ES256", "typ": "JWT", "x5c": [chain]}, claims, key)


def _der(pem: bytes) -> bytes:
    from cryptography.x509 import load_pem_x509_certificate

    return load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER)


@contextmanager
def run_token_server(directory: Path) -> Iterator[TokenServer]:
    """A token server, with a key of its own."""
    (directory / "keys").mkdir(parents=True)
    ensure(directory / "keys", ["localhost"], now=datetime.now(UTC))
    made = TokenServer(directory)
    basic = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            shown = self.headers.get("authorization")
            if shown is not None and shown != basic:
                self.reply(401, {"errors": [{"code": "UNAUTHORIZED", "message": "wrong password"}]})
                return
            query = parse_qs(urlsplit(self.path).query)
            token = made.token(query.get("scope", []), known=shown is not None)
            self.reply(200, {"token": token, "expires_in": made.life})

        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
            made.forms.append(form)
            if form.get("refresh_token") != [REFRESH]:
                self.reply(401, {})
                return
            self.reply(200, {"access_token": made.token(form.get("scope", []), known=True), "expires_in": made.life})

        def reply(self, status: int, document: object) -> None:
            body = json.dumps(document).encode()
            self.send_response_only(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        made.url = f"http://127.0.0.1:{server.server_address[1]}/token"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield made
        finally:
            server.shutdown()
            thread.join()
