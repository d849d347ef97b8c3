"""
Logging in at an OpenID Connect provider: the authorization code flow with PKCE (OpenID Connect Core 1.0, section 3.1;
RFC 7636), for people who use the command line (RFC 8252, section 7.3).

Nothing is remembered between the steps. What a login is about travels in a cookie, and what it ends with in a ticket;
both are sealed with a key that all processes of a server share.
"""

import secrets
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import quote_plus

import httpx
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet
from msgspec import Struct

from mlenv.errors import Forbidden, Unavailable

#: Signatures that are good: by the provider's private key. `none` and those by shared secrets are not among them.
ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
#: How far the provider's clock may be from ours, in seconds.
SKEW: Final = 60
#: Seconds to wait for the provider, and the largest answer that is read, in bytes.
_TIMEOUT: Final = 10.0
_ANSWER_LIMIT: Final = 1 << 20
#: How long what the provider says of itself is good, and the least time between two looks at its keys, in seconds.
_FRESH: Final = 3600.0
_PAUSE: Final = 10.0
_SUBJECT_LIMIT: Final = 255


class LoginRefused(Forbidden):
    """Somebody who wanted to log in is not let in."""

    hint = "begin again with `mlenv login URL`"

    def __init__(self, why: str) -> None:
        super().__init__(f"the login is refused: {why}")


class ProviderUnavailable(Unavailable):
    """The provider does not answer as it should."""

    def __init__(self, issuer: str, why: str) -> None:
        super().__init__(f"the login provider {issuer} is of no use: {why}")


class Begun(Struct, frozen=True):
    """
    A login that has begun.

    Attributes:
        url: Where the browser goes.
        state, nonce, verifier: What the provider, its token and its answer must fit to.
    """

    url: str
    state: str
    nonce: str
    verifier: str


class Person(Struct, frozen=True):
    """
    Who has logged in.

    Attributes:
        subject: `issuer subject`, which nobody else has, ever.
        names: What the provider calls them, the best first; not checked.
    """

    subject: str
    names: tuple[str, ...]


class _Metadata(Struct, frozen=True):
    issuer: str
    authorization: str
    token: str
    keys: str
    basic: bool
    until: float


class Provider:
    """An OpenID Connect provider, as one of its clients sees it. Safe for several threads."""

    def __init__(
        self,
        issuer: str,
        client_id: str,
        client_secret: str | None = None,
        *,
        now: Callable[[], float] = time.time,
        http: httpx.Client | None = None,
    ) -> None:
        """
        Args:
            issuer: Its address, with or without the `/` at its end.
            now: Seconds since 1970.
        """
        self.issuer = issuer.rstrip("/")
        self._client_id, self._client_secret = client_id, client_secret
        self._now = now
        self._http = http or httpx.Client(timeout=_TIMEOUT, follow_redirects=False)
        self._guard = threading.Lock()
        self._metadata: _Metadata | None = None
        self._keys: KeySet | None = None
        self._keys_read = float("-inf")

    def begin(self, callback: str) -> Begun:
        """
        Begin a login.

        Args:
            callback: Where the provider sends the browser back to.

        Raises:
            ProviderUnavailable: It can't be asked what it is.
        """
        metadata = self._known()
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        url = prepare_grant_uri(
            metadata.authorization,
            self._client_id,
            "code",
            callback,
            "openid profile email",
            state,
            nonce=nonce,
            code_challenge=create_s256_code_challenge(verifier),
            code_challenge_method="S256",
        )
        return Begun(url, state, nonce, verifier)

    def finish(self, code: str, callback: str, *, nonce: str, verifier: str) -> Person:
        """
        End a login: exchange the code for an identity token, and check that.

        Raises:
            LoginRefused: The provider does not take the code, or its token is not for this login.
            ProviderUnavailable: It does not answer as it should.
        """
        metadata = self._known()
        answer = self._exchange(metadata, code, callback, verifier)
        text = answer.get("id_token")
        if not isinstance(text, str):
            raise LoginRefused("the provider gave no identity token")
        claims = self._verified(metadata, text, nonce, answer.get("access_token"))
        subject = claims.get("sub")
        if not isinstance(subject, str) or not 0 < len(subject) <= _SUBJECT_LIMIT or not subject.isprintable():
            raise LoginRefused("the provider's token names nobody")
        named = (claims.get(key) for key in ("preferred_username", "email", "name"))
        return Person(f"{metadata.issuer} {subject}", tuple(each for each in named if isinstance(each, str)))

    def _exchange(self, metadata: _Metadata, code: str, callback: str, verifier: str) -> Mapping[str, Any]:
        """The token endpoint's answer (RFC 6749, section 4.1.3)."""
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": callback,
            "code_verifier": verifier,
        }
        auth = None
        if self._client_secret is not None and metadata.basic:
            # Both are encoded as forms are (RFC 6749, section 2.3.1).
            auth = httpx.BasicAuth(quote_plus(self._client_id), quote_plus(self._client_secret))
        else:
            form["client_id"] = self._client_id
            if self._client_secret is not None:
                form["client_secret"] = self._client_secret
        status, answer = self._ask("POST", metadata.token, data=form, auth=auth)
        if status != 200:
            said = answer.get("error")
            raise LoginRefused(f"the provider says {said if isinstance(said, str) and said.isidentifier() else status}")
        return answer

    def _verified(self, metadata: _Metadata, text: str, nonce: str, access_token: Any) -> Mapping[str, Any]:
        """The claims of an identity token that is for this login (OpenID Connect Core 1.0, section 3.1.3.7)."""
        try:
            token = self._decoded(metadata, text)
            params: dict[str, Any] = {"nonce": nonce, "client_id": self._client_id}
            if isinstance(access_token, str):
                params["access_token"] = access_token
            options: Any = {
                "iss": {"essential": True, "value": metadata.issuer},
                "aud": {"essential": True, "value": self._client_id},
            }
            checked = CodeIDToken(token.claims, token.header, options, params)
            checked.validate(int(self._now()), SKEW)
        except (JoseError, ValueError, TypeError, KeyError) as error:
            # NOTE: only the kind is told, and for claims which one; texts of the token are not.
            what = getattr(error, "claim", None) or getattr(error, "error", None) or "it is malformed"
            raise LoginRefused(f"the provider's identity token is not good: {what}") from error
        return dict(checked)

    def _decoded(self, metadata: _Metadata, text: str) -> jwt.Token:
        """The token, its signature checked; keys that we don't know are looked for once more."""
        try:
            return jwt.decode(text, self._key_set(metadata), list(ALGORITHMS))
        except (InvalidKeyIdError, ValueError):
            fresh = self._key_set(metadata, again=True)
            return jwt.decode(text, fresh, list(ALGORITHMS))

    def _key_set(self, metadata: _Metadata, *, again: bool = False) -> KeySet:
        with self._guard:
            age = self._now() - self._keys_read
            if self._keys is None or not 0 <= age < _FRESH or (again and age > _PAUSE):
                status, document = self._ask("GET", metadata.keys)
                try:
                    if status != 200:
                        raise ValueError(f"status {status}")
                    self._keys = KeySet.import_key_set(document)  # type: ignore[arg-type]
                except (JoseError, ValueError, TypeError, KeyError) as error:
                    raise ProviderUnavailable(self.issuer, "its keys can't be read") from error
                self._keys_read = self._now()
            return self._keys

    def _known(self) -> _Metadata:
        """What the provider says of itself (OpenID Connect Discovery 1.0, section 4)."""
        found = self._metadata
        if found is not None and found.until - _FRESH <= self._now() < found.until:
            return found
        status, document = self._ask("GET", f"{self.issuer}/.well-known/openid-configuration")
        if status != 200:
            raise ProviderUnavailable(self.issuer, f"it answered {status} when asked what it is")
        issuer = document.get("issuer")
        if issuer not in {self.issuer, f"{self.issuer}/"}:
            raise ProviderUnavailable(self.issuer, "it says that it is another")
        places = [document.get(key) for key in ("authorization_endpoint", "token_endpoint", "jwks_uri")]
        for place in places:
            if not isinstance(place, str) or not self._is_safe(place):
                raise ProviderUnavailable(self.issuer, "it does not say where to log in, or not safely")
        # The default of section 3 there is `client_secret_basic`.
        ways = document.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
        basic = "client_secret_basic" in ways
        authorization, token, keys = map(str, places)
        self._metadata = _Metadata(str(issuer), authorization, token, keys, basic, self._now() + _FRESH)
        return self._metadata

    def _is_safe(self, url: str) -> bool:
        """Whether an address is as protected as the one that was configured."""
        try:
            scheme = httpx.URL(url).scheme
        except httpx.InvalidURL:
            return False
        return scheme == "https" or (scheme == "http" and self.issuer.startswith("http:"))

    def _ask(self, method: str, url: str, **more: Any) -> tuple[int, Mapping[str, Any]]:
        """The status and JSON object of an answer. Raises `ProviderUnavailable`."""
        try:
            with self._http.stream(method, url, headers={"Accept": "application/json"}, **more) as response:
                body, size = [], 0
                for chunk in response.iter_bytes():
                    size += len(chunk)
                    if size > _ANSWER_LIMIT:
                        raise ProviderUnavailable(self.issuer, "its answer is too large")
                    body.append(chunk)
                status = response.status_code
            document = httpx.Response(200, content=b"".join(body)).json()
        except httpx.HTTPError as error:
            raise ProviderUnavailable(self.issuer, f"it does not answer ({type(error).__name__})") from error
        except (ValueError, RecursionError) as error:
            raise ProviderUnavailable(self.issuer, "its answer is not JSON") from error
        if not isinstance(document, dict):
            raise ProviderUnavailable(self.issuer, "its answer is not an object")
        return status, document
