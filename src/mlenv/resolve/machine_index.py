"""The index that a machine takes for the public one: its mirror, as uv and pip are told of it by variables."""

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote, urlsplit

from msgspec import Struct, field
from msgspec.structs import replace

from mlenv.core.redact import without_credentials
from mlenv.core.spec import Index, Sources
from mlenv.errors import InvalidInput
from mlenv.resolve.failures import variable_name

#: Where uv and pip look, in this order; uv's `UV_INDEX_URL` is its older spelling.
VARIABLES: Final = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL")
#: The name of an index whose variable gives none: its credentials are found by it.
_NAME: Final = "mlenv-default"
_NAMED: Final = re.compile(r"([A-Za-z0-9._-]+)=(.*)", re.DOTALL)


class InvalidMachineIndex(InvalidInput):
    """A variable that should hold an index's address, and does not. Its value, which may be a secret, is not shown."""

    hint = "set it to an address that begins with https://, http:// or file://, or unset it"

    def __init__(self, variable: str) -> None:
        super().__init__(f"the environment variable {variable} is not the address of a package index")
        self.variable = variable


class MachineIndex(Struct, frozen=True):
    """
    What takes the public index's place on this machine.

    Attributes:
        index: Its address, without credentials, and its name.
        credentials: Variables with the user and password that stood in the address, as uv takes them for an index of
            that name. They go to processes and servers, and nowhere else.
    """

    index: Index
    credentials: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"MachineIndex({self.index!r})"

    def fill(self, sources: Sources) -> Sources:
        """The sources, with this index where they name no default."""
        return sources if sources.default or sources.no_index else replace(sources, default=self.index)


def machine_index(environment: Mapping[str, str]) -> MachineIndex | None:
    """
    Read the variables. None if none is set.

    Raises:
        InvalidMachineIndex: It holds no address.
    """
    variable = next((each for each in VARIABLES if environment.get(each, "").strip()), None)
    if variable is None:
        return None
    name, url = _NAME, environment[variable].strip()
    if variable == "UV_DEFAULT_INDEX" and (match := _NAMED.fullmatch(url)):
        name, url = match[1], match[2]
    try:
        parts = urlsplit(url)
        user, password, bare = parts.username, parts.password, without_credentials(url)
        valid = parts.scheme in ("http", "https", "file") and bool(parts.hostname or parts.scheme == "file")
    except ValueError:
        valid = False
    if not valid or re.search(r"\s", url):
        raise InvalidMachineIndex(variable)
    prefix = f"UV_INDEX_{variable_name(name)}"
    given = {f"{prefix}_USERNAME": user, f"{prefix}_PASSWORD": password}
    return MachineIndex(Index(bare, name), {key: unquote(value) for key, value in given.items() if value})
