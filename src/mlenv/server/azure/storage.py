"""Places to upload to, as Azure's clients are told of them: containers, and signatures that open them."""

import secrets
from datetime import timedelta
from typing import Any

from fastapi import Request

from mlenv.core.files import lasting_container, scope_of, temporary_container, upload_at
from mlenv.core.scope import Scope
from mlenv.server.azure.addresses import base_of
from mlenv.server.azure.door import known_caller
from mlenv.server.azure.signatures import USUAL, sign, signing_key
from mlenv.server.door import site_of


def signature(request: Request, container: str, lifetime: timedelta = USUAL) -> str:
    """A signature for a container, for the request's caller, as a query without `?`."""
    key = signing_key(request.app.state.settings.home)
    now = site_of(request).clock()
    return sign(key, container, known_caller(request).principal.id, now=now, lifetime=lifetime)


def new_container(request: Request, scope: Scope) -> str:
    """A container of a namespace that nothing was uploaded to yet."""
    return temporary_container(scope.id, secrets.token_hex(8))


def reference_to(request: Request, container: str) -> dict[str, Any]:
    """How a client is told where to upload to: the container's address, with a signature."""
    uri = f"{base_of(request)}/blobs/{container}"
    return {
        "blobUri": uri,
        "storageAccountArmId": "",
        "credential": {"credentialType": "SAS", "sasUri": f"{uri}?{signature(request, container)}"},
    }


def uploaded(request: Request, scope: Scope, uri: str) -> tuple[str, str] | None:
    """
    Which container and directory of a namespace an address means.

    Returns:
        The container, and the directory's path with `/` at its end; None if the address is none of this namespace's.
    """
    found = upload_at(uri) if _host(uri) == _host(base_of(request)) else None
    if found is None or scope_of(found[0]) != scope.id or not found[1].strip("/"):
        return None
    return found[0], found[1].strip("/") + "/"


def _host(uri: str) -> str:
    return uri.partition("://")[2].partition("/")[0].lower()


def is_lasting(scope: Scope, container: str) -> bool:
    """Whether it is the container of a namespace that is always there."""
    return container == lasting_container(scope.id)
