"""
A small OpenID Connect provider on loopback, made with authlib: discovery, authorisation, token and keys.

It logs everybody in at once as `user`. What its tokens say can be altered, to see whether a client notices.
"""

import json
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from authlib.common.security import generate_token
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from authlib.oidc.core.grants.util import create_half_hash
from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey

CLIENT_ID = "mlenv-client"
CLIENT_SECRET = "not really / a secret+"


@cache
def _new_key(kid: str) -> RSAKey:
    """A key of that name, the same for all providers of a process: making one takes longer than most tests with it."""
    return RSAKey.generate_key(2048, {"kid": kid, "use": "sig", "alg": "RS256"})


@dataclass
class OidcProvider:
    """
    A provider.

    Attributes:
        issuer: Its address.
        user: Who logs in: the claims of the next token.
        alter: Changes the claims of a token before it is signed.
        algorithm: What the next token is signed with; `none` and `HS256` are what an attacker would try.
        state: What the browser is sent back with, if not what was asked for.
        key: What tokens are signed with; `published` are the keys that clients are told.
        asked: The queries of all authorisation requests.
    """

    issuer: str = ""
    user: dict[str, Any] = field(default_factory=lambda: {"sub": "u-1", "preferred_username": "ann"})
    alter: Callable[[dict[str, Any]], Any] = lambda claims: None
    algorithm: str = "RS256"
    state: str | None = None
    key: RSAKey = field(default_factory=lambda: _new_key("first"))
    published: list[RSAKey] = field(default_factory=list)
    asked: list[dict[str, str]] = field(default_factory=list)
    _codes: dict[str, dict[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.published = self.published or [self.key]

    def new_key(self) -> None:
        """Sign with another key from now on, which clients can ask for."""
        self.key = _new_key("second")
        self.published.append(self.key)

    def configuration(self) -> dict[str, Any]:
        """OpenID Connect Discovery 1.0, section 3."""
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/keys",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "code_challenge_methods_supported": ["S256"],
        }

    def keys(self) -> dict[str, Any]:
        """RFC 7517, section 5."""
        return dict(KeySet(list(self.published)).as_dict(private=False))

    def authorize(self, query: dict[str, str]) -> str:
        """Where the browser is sent back to (OpenID Connect Core 1.0, section 3.1.2)."""
        self.asked.append(query)
        assert query["response_type"] == "code"
        assert query["client_id"] == CLIENT_ID
        assert "openid" in query["scope"].split()
        assert query["code_challenge_method"] == "S256"
        code = generate_token(40)
        self._codes[code] = query
        state = query["state"] if self.state is None else self.state
        return f"{query['redirect_uri']}?{urlencode({'code': code, 'state': state})}"

    def exchange(self, form: dict[str, str], secret: str | None) -> tuple[int, dict[str, Any]]:
        """A token for a code (section 3.1.3), which is good once."""
        query = self._codes.pop(form.get("code", ""), None)
        if secret != CLIENT_SECRET:
            return 401, {"error": "invalid_client"}
        if query is None or form.get("redirect_uri") != query["redirect_uri"]:
            return 400, {"error": "invalid_grant"}
        if create_s256_code_challenge(form.get("code_verifier", "")) != query["code_challenge"]:
            return 400, {"error": "invalid_grant"}
        access_token = generate_token(40)
        return 200, {
            "access_token": access_token,
            "token_type": "Bearer",
            "expires_in": 60,
            "id_token": self._id_token(query.get("nonce", ""), access_token),
        }

    def _id_token(self, nonce: str, access_token: str) -> str:
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "aud": CLIENT_ID,
            "iat": now,
            "exp": now + 60,
            "nonce": nonce,
            "at_hash": create_half_hash(access_token, "RS256").decode(),
            **self.user,
        }
        self.alter(claims)
        header = {"alg": self.algorithm, "kid": self.key.kid}
        if self.algorithm == "none":
            return f"{_part(header)}.{_part(claims)}."
        if self.algorithm == "HS256":
            # The public key as a shared secret: what a client takes that believes the header.
            return _signed_by_public_key(header, claims, self.key)
        return str(jwt.encode(header, claims, self.key, [self.algorithm]))


@contextmanager
def serve_oidc() -> Iterator[OidcProvider]:
    """A provider that answers on loopback."""
    provider = OidcProvider()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            if parts.path == "/authorize":
                query = {key: values[0] for key, values in parse_qs(parts.query).items()}
                self.send_response(302)
                self.send_header("Location", provider.authorize(query))
                self.send_header("Content-Length", "0")
                self.end_headers()
            elif parts.path == "/keys":
                self._answer(200, provider.keys())
            elif parts.path == "/.well-known/openid-configuration":
                self._answer(200, provider.configuration())
            else:
                self._answer(404, {})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            form = {key: values[0] for key, values in parse_qs(body).items()}
            self._answer(*provider.exchange(form, _secret_of(self.headers.get("Authorization", ""))))

        def _answer(self, status: int, document: dict[str, Any]) -> None:
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    provider.issuer = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield provider
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _secret_of(header: str) -> str | None:
    """The secret of HTTP's basic scheme; both parts are encoded as forms are (RFC 6749, section 2.3.1)."""
    from base64 import b64decode
    from urllib.parse import unquote_plus

    scheme, _, text = header.partition(" ")
    if scheme != "Basic":
        return None
    name, _, secret = b64decode(text).decode().partition(":")
    return unquote_plus(secret) if unquote_plus(name) == CLIENT_ID else None


def _part(document: dict[str, Any]) -> str:
    return urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=").decode()


def _signed_by_public_key(header: dict[str, Any], claims: dict[str, Any], key: RSAKey) -> str:
    import hashlib
    import hmac

    text = f"{_part(header)}.{_part(claims)}"
    digest = hmac.new(key.as_pem(private=False), text.encode(), hashlib.sha256).digest()
    return f"{text}.{urlsafe_b64encode(digest).rstrip(b'=').decode()}"
