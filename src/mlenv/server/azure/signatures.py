"""
Shared access signatures: addresses that let a client read and write one container for a while.

They look as those of the blob service do (Azure Storage, "Create a service SAS"; `skoid` names who asked, as in one of
a user), but are signed by a secret of this site. A signature says who asked; what they may do is asked again each time
it is shown, so that a role that was taken away ends it.
"""

import base64
import hmac
import os
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

from msgspec import Struct

from mlenv.errors import Forbidden, Unavailable

_VERSION: Final = "2022-11-02"
_SECRET_SIZE: Final = 32
#: How long a signature is good: at most, and if the client does not say.
LONGEST: Final = timedelta(hours=24)
USUAL: Final = timedelta(hours=1)
#: What the clients of code and build contexts need: read, add, create, write, list.
ALL: Final = "racwl"


class InvalidSignature(Forbidden):
    """A signature that was not made here, is over, or is for something else."""

    def __init__(self, why: str) -> None:
        super().__init__(f"the shared access signature is not good for this: {why}")


class Signed(Struct, frozen=True):
    """What a good signature says: who asked for it, and which operations it allows."""

    principal: str
    permissions: str


def signing_key(home: Path) -> bytes:
    """The site's secret, which is made when it is first needed. Raises `Unavailable`."""
    path = home / "keys" / "signatures.key"
    try:
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
            try:
                with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                    file.write(secrets.token_bytes(_SECRET_SIZE))
                    file.flush()
                    os.fsync(file.fileno())
                # Of several processes that make one, the first to link it has made it.
                os.link(temporary, path)
            except FileExistsError:
                pass
            finally:
                temporary.unlink(missing_ok=True)
        key = path.read_bytes()
    except OSError as error:
        raise Unavailable(f"the key of signatures can't be read: {error.strerror}") from error
    if len(key) < _SECRET_SIZE:
        raise Unavailable("the key of signatures is damaged")
    return key


def sign(
    key: bytes, container: str, principal: str, *, now: datetime, lifetime: timedelta = USUAL, permissions: str = ALL
) -> str:
    """A signature for a container, as a query without `?`. No `+` is in it, which some clients read as a space."""
    until = (now + min(lifetime, LONGEST)).astimezone(UTC)
    query = {
        "sv": _VERSION,
        "sr": "c",
        "se": until.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "sp": permissions,
        "skoid": principal,
    }
    return urlencode({**query, "sig": _digest(key, container, query)})


def check(key: bytes, container: str, query: Mapping[str, str], *, now: datetime) -> Signed:
    """
    What a signature says that was shown for a container.

    Raises:
        InvalidSignature: It is none of this site's for this container, or it is over.
    """
    shown = {name: query.get(name, "") for name in ("sv", "sr", "se", "sp", "skoid")}
    expected = _digest(key, container, shown)
    given = query.get("sig", "").replace(" ", "+")
    if not hmac.compare_digest(expected.encode(), given.encode("utf-8", "replace")):
        raise InvalidSignature("it was not made here for this container")
    if datetime.strptime(shown["se"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC) <= now:
        raise InvalidSignature(f"it ended at {shown['se']}")
    return Signed(shown["skoid"], shown["sp"])


def _digest(key: bytes, container: str, query: Mapping[str, str]) -> str:
    text = "\n".join((container, *(query[name] for name in ("sv", "sr", "se", "sp", "skoid"))))
    return base64.b64encode(hmac.new(key, text.encode("utf-8", "backslashreplace"), sha256).digest()).decode()
