"""`pylock.toml` (PEP 751) as a definition: checked and kept as it is. `core.pylock_select` chooses files for a target."""

from collections.abc import Iterator
from typing import Any

from mlenv.api.dependencies import Dependencies
from mlenv.api.files import TOML_LIMIT
from mlenv.api.problems import CredentialInUrl, InvalidField, InvalidSyntax, Place
from mlenv.api.pyproject import parse_toml
from mlenv.api.python_version import parse_python
from mlenv.core.lock import InvalidLock
from mlenv.core.pylock_select import read_pylock
from mlenv.core.redact import has_credentials, redact


def parse_pylock(text: str, file: str) -> Dependencies:
    """
    Check a lock.

    Args:
        text: Its content, kept byte for byte.
        file: Its path, as the user named it.

    Raises:
        InvalidSyntax: It is not TOML, or too large.
        InvalidField: It is not PEP 751, or of a version that is not known.
        CredentialInUrl: One of its addresses holds a secret.
    """
    if len(text) > TOML_LIMIT:
        raise InvalidSyntax(f"larger than {TOML_LIMIT} characters", Place(file))
    document = parse_toml(text, file)
    for path, value in _texts(document, ""):
        if has_credentials(value):
            line = next((number for number, each in enumerate(text.splitlines(), 1) if value in each), None)
            raise CredentialInUrl(Place(file, line), path=path, url=repr(redact(value)))
    try:
        lock = read_pylock(text)
    except InvalidLock as error:
        raise InvalidField(str(error), Place(file), hint=error.hint) from error
    return Dependencies(pylock=text, python=parse_python(str(lock.requires_python)) if lock.requires_python else None)


def _texts(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Every text in the data, with its path."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from _texts(each, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from _texts(each, f"{path}[{number}]")
