"""
Who asks, and for which repository: every request passes `Site.open`, with one operation.

Tokens are mlenv's own. Clients that ask for one at `/v2/token`, as docker and podman do, show it as a password and are
given it back, so that there is one kind of token, and one that is revoked is worth nothing here either.
"""

import base64
import binascii
import json
from collections.abc import Iterable
from typing import Final

from mlenv.core.access import Caller, NotAllowed, Operation, Principal
from mlenv.core.image_name import repository_of
from mlenv.core.repositories import RepositoryName, RepositoryNotFound, parse_repository
from mlenv.core.scope import ScopeKind
from mlenv.server.oci.answers import Answer, Asked, header
from mlenv.server.oci.errors import MethodNotAllowed
from mlenv.server.threads import Threads
from mlenv.service.services import Services
from mlenv.service.site import ScopeNotFound, Site, UnknownToken

#: What the token's service is called in challenges (distribution, "Token Authentication Specification").
SERVICE: Final = "mlenv"
#: For how many seconds clients use a token without asking for it again. It is worth something for as long as it is.
_LIFETIME: Final = 300
#: The largest form that asks for a token, in bytes.
_FORM_LIMIT: Final = 64 << 10


class Door:
    """
    Lets requests in.

    Args:
        public_url: How clients reach the server, if not as they address it.
    """

    def __init__(self, site: Site, threads: Threads, public_url: str | None) -> None:
        self._site, self._threads, self._public_url = site, threads, public_url

    async def caller(self, asked: Asked) -> Caller:
        """Who asks. Raises `UnknownToken`."""
        if asked.caller is None:
            secret = _secret(asked)
            if secret is None:
                raise UnknownToken("no token was shown")
            asked.caller = await self._known(asked, secret)
        return asked.caller

    async def open(self, asked: Asked, operation: Operation, name: str) -> tuple[Services, RepositoryName]:
        """
        The use cases of the namespace that a repository is in, for one operation, and the repository's name there.

        Raises:
            UnknownToken: Nobody is known by what was shown.
            InvalidRepository: That is no name.
            RepositoryNotFound: There is no such namespace, or none that the caller may see.
            NotAllowed: The caller may see it, but not do this.
        """
        caller = await self.caller(asked)
        first, _, rest = parse_repository(name).partition("/")
        if not rest:
            raise RepositoryNotFound(name)
        if self._site.is_at_hand(ScopeKind.WORKSPACE, first):
            try:
                return self._site.open(caller, operation, ScopeKind.WORKSPACE, first), RepositoryName(rest)
            except ScopeNotFound:
                pass
        return await self._threads.run(self._find, caller, operation, name), RepositoryName(rest)

    def _find(self, caller: Caller, operation: Operation, name: str) -> Services:
        """A workspace of that name, or else a registry; or one whose name images can't have as it is."""
        first = name.partition("/")[0]
        for kind in ScopeKind:
            try:
                return self._site.open(caller, operation, kind, first)
            except ScopeNotFound:
                continue
        for kind in ScopeKind:
            for each in self._site.visible(caller, kind):
                if repository_of(each.name) == first:
                    return self._site.open(caller, operation, kind, each.name)
        raise RepositoryNotFound(name)

    def may_read_any(self, caller: Caller, scopes: Iterable[str]) -> bool:
        """Whether the caller may read one of these namespaces, given by their keys."""
        for key in scopes:
            kind, _, name = key.rpartition(":")
            try:
                self._site.enter(caller, Operation.BLOB_READ, ScopeKind(kind or ScopeKind.WORKSPACE), name)
            except (NotAllowed, ScopeNotFound):
                continue
            return True
        return False

    def challenge(self, asked: Asked, wanted: str | None) -> tuple[bytes, bytes]:
        """
        The header that tells a client where to ask for a token.

        Args:
            wanted: The scope to ask for: `repository:NAME:pull,push`.
        """
        if asked.path == "/v2/token":
            return header("www-authenticate", f'Basic realm="{SERVICE}"')
        text = f'Bearer realm="{self._address(asked)}/v2/token",service="{SERVICE}"'
        if wanted is not None:
            text += f',scope="{wanted}"'
        if b"authorization" in asked.headers:
            text += ',error="invalid_token"'
        return header("www-authenticate", text)

    async def token(self, asked: Asked) -> Answer:
        """Answer a client's own token to it (GET with Basic, POST of a form), once it was found to be good."""
        if asked.method == "POST":
            form = await self._form(asked)
            secret = form.get("password") or form.get("refresh_token")
        elif asked.method in {"GET", "HEAD"}:
            form, secret = {}, _secret(asked)
        else:
            raise MethodNotAllowed(("GET", "POST"))
        if not secret:
            raise UnknownToken("no token was shown")
        await self._known(asked, secret)
        document = {"token": secret, "access_token": secret, "expires_in": _LIFETIME}
        document["issued_at"] = self._site.clock().isoformat(timespec="seconds")
        if form.get("access_type") == "offline" or asked.parameter("offline_token") == "true":
            document["refresh_token"] = secret
        headers = [header("content-type", "application/json"), header("cache-control", "no-store")]
        return Answer(200, headers, json.dumps(document).encode())

    async def _known(self, asked: Asked, secret: str) -> Caller:
        # What is remembered costs no thread.
        principal: Principal | None = self._site.recall(secret)
        if principal is None:
            principal = await self._threads.run(self._site.authenticate, secret)
        state = asked.scope["state"]
        state["principal"] = principal
        client = asked.scope.get("client")
        return Caller(principal, client[0] if client else "", state.get("request_id", ""))

    async def _form(self, asked: Asked) -> dict[str, str]:
        from urllib.parse import parse_qsl

        data = await asked.body(_FORM_LIMIT, lambda: UnknownToken("the form is too large"))
        try:
            return dict(parse_qsl(data.decode("ascii"), max_num_fields=20))
        except ValueError:
            raise UnknownToken("the form can't be read") from None

    def _address(self, asked: Asked) -> str:
        if self._public_url is not None:
            return self._public_url
        host = asked.header(b"host") or "localhost"
        # A name that is none must not break out of the header's quotes.
        plain = "".join(each for each in host if each.isalnum() or each in ".:-[]_")
        return f"{asked.scope.get('scheme', 'https')}://{plain}"


def _secret(asked: Asked) -> str | None:
    """The token that a request shows: as such (RFC 6750), or as the password of any user (RFC 7617). None if none."""
    scheme, _, rest = (asked.header(b"authorization") or "").partition(" ")
    rest = rest.strip()
    if scheme.lower() == "bearer":
        return rest or None
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(rest, validate=True).decode().partition(":")[2] or None
    except (binascii.Error, ValueError):
        return None
