"""
What Azure's command line asks of a cloud: where everything is, and a token for a secret.

There is one way to get a token: a client's secret that is a token of this site is answered with itself (RFC 6749,
section 4.4). Passwords and codes are not taken.
"""

from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import parse_qs

from fastapi import Request
from starlette.responses import JSONResponse, Response

from mlenv.errors import NotAuthenticated
from mlenv.server.azure.addresses import azure_router, base_of
from mlenv.server.azure.workspaces import TENANT
from mlenv.server.door import public, site_of
from mlenv.server.threads import in_thread

router = azure_router()

#: The largest request for a token, in bytes.
_FORM_LIMIT: Final = 64 << 10
#: What a client is told of how long a token lasts, in seconds. It asks again then.
_LIFETIME: Final = 3600
#: The version of the list that is a single cloud, and not a list of one.
_SINGLE: Final = "2022-09-01"
_WELL_KNOWN: Final = "/.well-known/openid-configuration"


@router.get("/metadata/endpoints")
@public
def endpoints(request: Request) -> Response:
    """Where everything of this cloud is: a list of one, or from 2022-09-01 on the one itself."""
    cloud = _cloud(base_of(request))
    version = request.query_params.get("api-version", "")
    return JSONResponse(cloud if version >= _SINGLE else [cloud])


@router.get(f"/adfs{_WELL_KNOWN}")
@router.get(f"/{{tenant}}/v2.0{_WELL_KNOWN}")
@router.get(_WELL_KNOWN)
@public
def openid_configuration(request: Request) -> dict[str, Any]:
    """Where tokens are asked for (OpenID Connect Discovery 1.0, section 3)."""
    login = f"{base_of(request)}/adfs"
    return {
        "issuer": login,
        "authorization_endpoint": f"{login}/oauth2/authorize",
        "token_endpoint": f"{login}/oauth2/token",
        "jwks_uri": f"{login}/discovery/keys",
        "response_types_supported": ["token"],
        "grant_types_supported": ["client_credentials"],
        "token_endpoint_auth_methods_supported": ["client_secret_post", "client_secret_basic"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
    }


@router.get("/adfs/discovery/keys")
@public
def keys() -> dict[str, Any]:
    """No keys: tokens are opaque to clients."""
    return {"keys": []}


@router.post("/adfs/oauth2/token")
@router.post("/adfs/{tenant}/oauth2/token")
@router.post("/adfs/oauth2/v2.0/token")
@public
async def token(request: Request) -> Response:
    """A token for a client's secret, which is a token of this site."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _FORM_LIMIT:
            return _refused("invalid_request", "the request is too large", 413)
    try:
        form = {key: values[-1] for key, values in parse_qs(body.decode("ascii"), max_num_fields=50).items()}
    except ValueError:
        return _refused("invalid_request", "the request is no form", 400)
    if form.get("grant_type") != "client_credentials":
        return _refused("unsupported_grant_type", "only client_credentials is taken here", 400)
    secret = form.get("client_secret", "")
    try:
        await in_thread(site_of(request).authenticate, secret)
    except NotAuthenticated as error:
        return _refused("invalid_client", str(error), 401)
    answer = {
        "token_type": "Bearer",
        "expires_in": _LIFETIME,
        "ext_expires_in": _LIFETIME,
        "expires_on": int(datetime.now(UTC).timestamp()) + _LIFETIME,
        "resource": form.get("resource", ""),
        "access_token": secret,
    }
    return JSONResponse(answer, headers={"Cache-Control": "no-store"})


def _refused(code: str, why: str, status: int) -> Response:
    """RFC 6749, section 5.2."""
    return JSONResponse({"error": code, "error_description": why}, status)


def _cloud(base: str) -> dict[str, Any]:
    host = base.partition("://")[2]
    return {
        "name": "mlenv",
        "portal": base,
        "resourceManager": f"{base}/",
        "authentication": {
            "loginEndpoint": f"{base}/adfs",
            "audiences": [base],
            "tenant": "adfs",
            "identityProvider": "ADFS",
        },
        "suffixes": {"storage": "local", "acrLoginServer": host, "keyVaultDns": "local", "sqlServerHostname": "local"},
        "activeDirectory": f"{base}/adfs",
        "activeDirectoryResourceId": base,
        "graphAudience": base,
        "graph": base,
        "batch": base,
        "gallery": base,
        "media": base,
        "sqlManagement": base,
        "vmImageAliasDoc": base,
        "activeDirectoryDataLake": base,
        "microsoftGraphResourceId": base,
        "tenant": TENANT,
    }
