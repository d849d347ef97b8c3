"""What can go wrong with a registry, and how its answers say so (distribution-spec, "Error Codes")."""

import json
import re
from typing import Final

from mlenv.core.redact import redact
from mlenv.errors import Forbidden, InvalidInput, NotFound, Unavailable

#: The most of an error's body that is read, in bytes, and of its text that is shown, in characters.
ERROR_LIMIT: Final = 64 << 10
_SHOWN: Final = 300


class RegistryUnreachable(Unavailable):
    """Nothing useful answers where a registry should be."""

    _FAULT = "does not answer"

    def __init__(self, host: str, why: str, *, hint: str | None = None) -> None:
        super().__init__(f"the registry {host} {self._FAULT}: {why}")
        self.host = host
        self.hint = hint or "see that its name and port are right, and that this machine can reach it"


class RegistryFails(RegistryUnreachable):
    """A registry answers, but with errors of its own, however often it is asked."""

    _FAULT = "fails"

    def __init__(self, host: str, why: str) -> None:
        super().__init__(host, why, hint="try it again later, or tell whoever runs it")


class UntrustedRegistry(RegistryUnreachable):
    """A registry shows a certificate that is not trusted here."""

    def __init__(self, host: str, why: str) -> None:
        hint = (
            f"give its authority with --ca FILE, or put it into /etc/docker/certs.d/{host}/ca.crt; "
            f"`--insecure-registry {host}` does without"
        )
        super().__init__(host, f"its certificate is not trusted: {why}", hint=hint)


class AccessRefused(Forbidden):
    """A registry wants other credentials, or none will do."""

    def __init__(self, host: str, what: str, why: str) -> None:
        super().__init__(f"the registry {host} refuses {what}: {why}")
        self.host = host
        self.hint = f"log in with `podman login {host}` or `docker login {host}`, with an account that may do this"


class NotInRegistry(NotFound):
    """A registry has no such repository, manifest or blob, or none that may be seen."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what} is not in its registry: {why}")
        self.what = what


class UnexpectedAnswer(Unavailable):
    """A registry answered something that makes no sense here."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what}: {why}")
        self.what = what


class TooLarge(InvalidInput):
    """A document from a registry is larger than what is read."""

    def __init__(self, what: str, limit: int) -> None:
        super().__init__(f"{what} has more than {limit} bytes")
        self.what, self.limit = what, limit


class Stopped(Unavailable):
    """A transfer was given up because another one failed, or the user wants no more of it."""

    def __init__(self, host: str) -> None:
        super().__init__(f"the transfer with the registry {host} was stopped")


def describe(status: int, body: bytes) -> str:
    """What an answer says of an error, in one line: the `errors` of its body, or the status alone."""
    try:
        errors = json.loads(body)["errors"]
        texts = [": ".join(filter(None, (_text(each.get("code")), _text(each.get("message"))))) for each in errors]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        texts = []
    said = "; ".join(text for text in texts[:3] if text)
    return f"{said} ({status})" if said else f"it says {status}"


def _text(value: object) -> str:
    """Foreign text for a message: one line, without control characters and secrets, and not long."""
    return (
        redact(re.sub(r"[^\x20-\x7e\xa0-\U0010ffff]+", " ", value[:_SHOWN])).strip() if isinstance(value, str) else ""
    )
