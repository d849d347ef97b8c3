"""
Who may do what: the challenges of registries, and the tokens that answer them.

RFC 9110 (section 11.6.1) for challenges, docker's "Token Authentication Specification" and "OAuth2 Token
Authentication" for tokens.
"""

import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from msgspec import Struct

from mlenv.distribution.credentials import Login
from mlenv.distribution.problems import AccessRefused, UnexpectedAnswer, describe

#: How long a token is good for if its server does not say, in seconds.
_DEFAULT_LIFE: Final = 60.0
#: A token is renewed when this part of its life is over.
_RENEW: Final = 0.8
_LONGEST_HEADER: Final = 8192
_CLIENT: Final = "mlenv"

_SCHEME: Final = re.compile(r"[ ,]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)(?: +|$|(?=,))")
_PARAMETER: Final = re.compile(r"[ ,]*([!#$%&'*+.^_`|~0-9A-Za-z-]+) *= *(?:\"((?:[^\"\\]|\\.)*)\"|([^\s,\"]+))")

#: Asks a token server: method, address, query or form, headers; gives status and body.
Ask = Callable[[str, str, list[tuple[str, str]], Mapping[str, str]], tuple[int, bytes]]


class Challenge(Struct, frozen=True):
    """What a registry wants: `Basic`, or `Bearer` with the address of a token server."""

    scheme: str
    realm: str = ""
    service: str = ""


class _Token(Struct, frozen=True):
    """A token and until when it is used (of the monotonic clock, in seconds)."""

    scopes: frozenset[str]
    until: float
    secret: str

    def __repr__(self) -> str:
        return f"_Token({self.scopes!r})"


def parse_challenges(header: str) -> list[Challenge]:
    """The challenges of a `WWW-Authenticate` header that are understood; others are passed over."""
    found: list[tuple[str, dict[str, str]]] = []
    place, text = 0, header[:_LONGEST_HEADER]
    while place < len(text):
        if found and (match := _PARAMETER.match(text, place)):
            quoted = match[2]
            found[-1][1][match[1].lower()] = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else match[3]
        elif match := _SCHEME.match(text, place):
            found.append((match[1].lower(), {}))
        else:
            break
        place = match.end()
    return [
        Challenge(scheme, values.get("realm", ""), values.get("service", ""))
        for scheme, values in found
        if scheme == "basic" or (scheme == "bearer" and values.get("realm"))
    ]


class Authenticator:
    """What is shown to one registry. Safe for several threads: a token is asked for once."""

    def __init__(self, host: str, login: Callable[[], Login | None], ask: Ask) -> None:
        """
        Args:
            host: The registry, for messages.
            login: Finds the account; called when one is first wanted.
            ask: Asks token servers. It checks where a realm leads.
        """
        self._host, self._find, self._ask = host, login, ask
        self._lock = threading.RLock()
        self._challenge: Challenge | None = None
        self._tokens: list[_Token] = []
        self._login: tuple[Login | None] | None = None

    def header(self, scopes: Iterable[str]) -> str | None:
        """
        The `Authorization` header for a request, or None for none.

        Args:
            scopes: What the request needs: `repository:NAME:pull,push` each.

        Raises:
            AccessRefused, UnexpectedAnswer, RegistryUnreachable: The token server gives none.
        """
        with self._lock:
            if self._challenge is None:
                return None
            if self._challenge.scheme == "basic":
                login = self._account()
                return login.basic if login is not None and login.user else None
            return f"Bearer {self._token(frozenset(scopes), self._challenge)}"

    def challenged(self, header: str, shown: str | None) -> bool:
        """
        A registry refused what was shown, and says what it wants. Whether asking again may do better.

        Args:
            header: Its `WWW-Authenticate`.
            shown: The `Authorization` that it refused, or None.
        """
        with self._lock:
            challenges = parse_challenges(header)
            chosen = next((each for each in challenges if each.scheme == "bearer"), None) or next(
                iter(challenges), None
            )
            if chosen is None:
                return False
            if shown is not None and shown.startswith("Bearer "):
                self._tokens = [each for each in self._tokens if f"Bearer {each.secret}" != shown]
            self._challenge = chosen
            return chosen.scheme == "bearer" or (shown is None and self._account() is not None)

    def _account(self) -> Login | None:
        if self._login is None:
            self._login = (self._find(),)
        return self._login[0]

    def _token(self, scopes: frozenset[str], challenge: Challenge) -> str:
        now = time.monotonic()
        self._tokens = [each for each in self._tokens if now < each.until]
        for known in self._tokens:
            if scopes <= known.scopes:
                return known.secret
        token = self._fetch(scopes, challenge, now)
        self._tokens.append(token)
        return token.secret

    def _fetch(self, scopes: frozenset[str], challenge: Challenge, now: float) -> _Token:
        login = self._account()
        asked = [("scope", each) for each in sorted(scopes)]
        if challenge.service:
            asked.append(("service", challenge.service))
        if login is not None and login.identity:
            # NOTE: this flow takes one parameter of all scopes, separated by spaces (RFC 6749, section 3.3).
            form = [each for each in asked if each[0] != "scope"] + [("scope", " ".join(sorted(scopes)))]
            form += [("grant_type", "refresh_token"), ("refresh_token", login.identity), ("client_id", _CLIENT)]
            status, body = self._ask("POST", challenge.realm, form, {})
        else:
            headers = {"Authorization": login.basic} if login is not None else {}
            status, body = self._ask("GET", challenge.realm, asked, headers)
        if status in (400, 401, 403):
            account = f"the account {login.user!r}" if login is not None and login.user else "its account"
            who = account if login is not None else "a client without an account"
            raise AccessRefused(self._host, f"a token to {who}", describe(status, body))
        if status != 200:
            raise UnexpectedAnswer(f"the token server of {self._host}", describe(status, body))
        return self._parse(body, scopes, now)

    def _parse(self, body: bytes, scopes: frozenset[str], now: float) -> _Token:
        try:
            document = json.loads(body)
            secret = document.get("token") or document["access_token"]
            life = float(document.get("expires_in") or _DEFAULT_LIFE)
            if not isinstance(secret, str) or not re.fullmatch(r"[\x21-\x7e]+", secret) or not life > 0:
                raise ValueError
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise UnexpectedAnswer(f"the token server of {self._host}", "its answer holds no token") from None
        return _Token(scopes, now + min(life, 3600.0) * _RENEW, secret)
