"""
Logging in with a browser, for the command line.

The command line listens on loopback and sends the browser to `/login/start`, with a challenge of its own (RFC 7636).
The provider sends it back to `/login/callback`, and that to the command line, with a code that is good once, for a
minute, and for who knows the challenge's verifier. `/login/token` gives a token for it.
"""

import hmac
import re
import secrets
from typing import Annotated, Any, Final
from urllib.parse import urlencode, urlsplit

from authlib.oauth2.rfc7636 import create_s256_code_challenge
from fastapi import APIRouter, Query, Request, Response

from mlenv.api.wire_site import LoginAnswer, LoginBody, NewTokenAnswer, token_document
from mlenv.core.tokens import TokenExists
from mlenv.errors import InvalidInput, MlenvError, NotFound
from mlenv.server.door import public, site_of
from mlenv.server.oidc import LoginRefused, Person, Provider
from mlenv.server.routes.bodies import Received, answer, answers, body_of, documented
from mlenv.server.routes.scoped import scoped
from mlenv.server.seals import BrokenSeal, Seals, ensure_key
from mlenv.server.settings import Settings
from mlenv.service.administration import is_principal_name
from mlenv.service.tokens import Tokens

_inner: Final = scoped()

_COOKIE: Final = "mlenv_login"
#: How long somebody may take to log in, and how long the command line may take to fetch its token, in seconds.
_LOGIN_TIME: Final = 600
_TICKET_TIME: Final = 60
_LOOPBACK: Final = {"127.0.0.1", "::1"}
_WORD: Final = re.compile(r"[A-Za-z0-9_-]{22,128}")
_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9_.@+-]+")

Short = Annotated[str | None, Query(max_length=4096)]


class NoLogin(NotFound):
    """This server has no provider to log in at."""

    hint = "log in with a token: `mlenv login URL --token -`"

    def __init__(self) -> None:
        super().__init__("this server has no login with a browser")


class InvalidRedirect(InvalidInput):
    """A place where the browser is not sent."""

    def __init__(self, why: str) -> None:
        super().__init__(f"not where a command line listens: {why}")


@_inner.get("/login", responses=answers(LoginAnswer, "Whether and where"))
@public
def show(request: Request) -> Response:
    """Say whether people can log in with a browser."""
    settings: Settings = request.app.state.settings
    has = settings.oidc_issuer is not None and settings.oidc_client_id is not None
    return answer({"oidc": has, "issuer": settings.oidc_issuer if has else None})


@_inner.get("/login/start", status_code=302, response_class=Response)
@public
def start(
    request: Request,
    redirect: Annotated[str, Query(max_length=200, description="Where the command line listens.")],
    state: Annotated[str, Query(max_length=128, description="Comes back to it as it is.")],
    challenge: Annotated[str, Query(max_length=128, description="As of RFC 7636, section 4.2, by S256.")],
) -> Response:
    """Send the browser to the provider."""
    _check_redirect(redirect)
    if not _WORD.fullmatch(state) or not _WORD.fullmatch(challenge):
        raise InvalidRedirect("state and challenge must be 22 to 128 characters of base64url")
    begun = _provider(request).begin(_callback(request))
    sealed = _seals(request).seal(
        "login",
        {
            "state": begun.state,
            "nonce": begun.nonce,
            "verifier": begun.verifier,
            "redirect": redirect,
            "theirs": state,
            "challenge": challenge,
        },
    )
    response = _redirect(begun.url)
    response.set_cookie(
        _COOKIE,
        sealed,
        max_age=_LOGIN_TIME,
        path=_cookie_path(request),
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="lax",
    )
    return response


@_inner.get("/login/callback", status_code=302, response_class=Response)
@public
def callback(request: Request, state: Short = None, code: Short = None, error: Short = None) -> Response:
    """Take what the provider says, and send the browser to the command line."""
    login = _seals(request).open("login", request.cookies.get(_COOKIE, ""), lifetime=_LOGIN_TIME)
    if state is None or not hmac.compare_digest(state.encode(), login["state"].encode()):
        raise BrokenSeal
    try:
        if code is None:
            raise LoginRefused(f"the provider says {error if error and error.isidentifier() else 'no'}")
        person = _provider(request).finish(code, _callback(request), nonce=login["nonce"], verifier=login["verifier"])
        said = {"code": _ticket(request, person, login["challenge"])}
    except MlenvError as refusal:
        said = {"error": str(refusal)[:500]}
    response = _redirect(f"{login['redirect']}?{urlencode({**said, 'state': login['theirs']})}")
    response.delete_cookie(_COOKIE, path=_cookie_path(request))
    return response


@_inner.post(
    "/login/token",
    status_code=201,
    responses={201: {"model": NewTokenAnswer, "description": "A token of the person who logged in"}},
    openapi_extra=documented(LoginBody),
)
@public
def exchange(request: Request, body: Annotated[Received[LoginBody], body_of(LoginBody)]) -> Response:
    """Give a token for the code that a login ended with."""
    ticket = _seals(request).open("ticket", body.value.code, lifetime=_TICKET_TIME)
    challenge = create_s256_code_challenge(body.value.verifier)
    if not hmac.compare_digest(challenge.encode(), ticket["challenge"].encode()):
        raise LoginRefused("the verifier is not that of the challenge")
    try:
        token, secret = Tokens(site_of(request)).login(ticket["principal"], ticket["id"], **_where(request))
    except TokenExists as error:
        raise LoginRefused("its code was used before") from error
    return answer(token_document(token) | {"secret": secret}, 201, {"Cache-Control": "no-store"})


def _ticket(request: Request, person: Person, challenge: str) -> str:
    def names() -> list[str]:
        cleaned = (_NOT_IN_NAMES.sub("-", each).strip("-_.@+")[:90] for each in person.names)
        return [each for each in cleaned if is_principal_name(each)] or ["person"]

    principal = Tokens(site_of(request)).person(person.subject, names, **_where(request))
    # NOTE: what is good once is this id. The sealed text itself has several spellings.
    ticket = {"id": secrets.token_hex(16), "principal": principal.id, "challenge": challenge}
    return _seals(request).seal("ticket", ticket)


def _where(request: Request) -> dict[str, str]:
    address = request.client.host if request.client else ""
    return {"address": address, "request": getattr(request.state, "request_id", "")}


def _check_redirect(text: str) -> None:
    """Let pass what is on loopback (RFC 8252, section 7.3). Raises `InvalidRedirect`."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise InvalidRedirect("it is no address") from error
    if parts.scheme != "http" or parts.hostname not in _LOOPBACK or not port or "@" in parts.netloc:
        raise InvalidRedirect("it must be http://127.0.0.1:PORT or http://[::1]:PORT")
    if parts.query or parts.fragment or not re.fullmatch(r"[A-Za-z0-9:/\[\]._-]+", text):
        raise InvalidRedirect("it has a query, a fragment, or strange characters")


def _callback(request: Request) -> str:
    settings: Settings = request.app.state.settings
    base = settings.public_url or f"{request.url.scheme}://{request.url.netloc}"
    return f"{base}{request.url.path.rpartition('/')[0]}/callback"


def _cookie_path(request: Request) -> str:
    return request.url.path.rpartition("/")[0]


def _redirect(url: str) -> Response:
    return Response(status_code=302, headers={"Location": url, "Cache-Control": "no-store"})


def _provider(request: Request) -> Provider:
    """The provider, which the application keeps. Raises `NoLogin`."""
    state: Any = request.app.state
    settings: Settings = state.settings
    if settings.oidc_issuer is None or settings.oidc_client_id is None:
        raise NoLogin
    if getattr(state, "oidc_provider", None) is None:
        secret = settings.oidc_client_secret
        state.oidc_provider = Provider(
            settings.oidc_issuer, settings.oidc_client_id, secret.get_secret_value() if secret else None
        )
    provider: Provider = state.oidc_provider
    return provider


def _seals(request: Request) -> Seals:
    state: Any = request.app.state
    if getattr(state, "seals", None) is None:
        state.seals = Seals(ensure_key(state.settings.home / "keys"))
    seals: Seals = state.seals
    return seals


router: Final = APIRouter()
router.include_router(_inner, tags=["login"])
