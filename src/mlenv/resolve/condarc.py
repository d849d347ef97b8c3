"""
What conda's own settings say of channels: `.condarc` files and `CONDA_…` variables (conda's "Using the .condarc file").

`mirrored_channels` is micromamba's. Values may hold credentials: they are not shown, and `conda_channels` takes them out.
"""

import os
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from msgspec import Struct, field

from mlenv.core.redact import redact
from mlenv.errors import InvalidInput

#: Where conda looks, what is later being stronger (`SEARCH_PATH` in conda's `base/constants.py`).
_SEARCHED: Final = (
    *("/etc/conda/.condarc", "/etc/conda/condarc", "/etc/conda/condarc.d"),
    *("/var/lib/conda/.condarc", "/var/lib/conda/condarc", "/var/lib/conda/condarc.d"),
    *("$CONDA_ROOT/.condarc", "$CONDA_ROOT/condarc", "$CONDA_ROOT/condarc.d"),
    *("$XDG_CONFIG_HOME/conda/.condarc", "$XDG_CONFIG_HOME/conda/condarc", "$XDG_CONFIG_HOME/conda/condarc.d"),
    *("~/.config/conda/.condarc", "~/.config/conda/condarc", "~/.config/conda/condarc.d"),
    *("~/.conda/.condarc", "~/.conda/condarc", "~/.conda/condarc.d", "~/.condarc"),
    *("$CONDA_PREFIX/.condarc", "$CONDA_PREFIX/condarc", "$CONDA_PREFIX/condarc.d", "$CONDARC"),
)
_LIMIT: Final = 1 << 20
_BRACKETS: Final = 500
_ALIASES: Final = {"channel": "channels"}
_TEXTS: Final = frozenset({"channel_alias"})
_LISTS: Final = frozenset({"channels", "default_channels", "migrated_channel_aliases"})
_FLAGS: Final = frozenset({"add_pip_as_python_dependency", "offline"})
_MAPS: Final = frozenset({"custom_channels"})
_MAPS_OF_LISTS: Final = frozenset({"custom_multichannels", "mirrored_channels"})
_READ: Final = _TEXTS | _LISTS | _FLAGS | _MAPS | _MAPS_OF_LISTS
_TRUE: Final = frozenset({"true", "yes", "on", "y", "1"})
_FALSE: Final = frozenset({"false", "no", "off", "n", "0"})


class InvalidCondarc(InvalidInput):
    """A file or variable of conda's that can't be understood. Its values, which may be secrets, are not shown."""

    hint = "correct it, or move it away: `conda config --show-sources` shows what conda reads"

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"{where}: {why}")
        self.where, self.why = where, why


class CondaSettings(Struct, frozen=True):
    """
    What conda's settings say; what they do not say is None, or empty. Addresses may hold credentials.

    Attributes:
        channel_alias: Below which channels are that are only named.
        channels: What is searched after the channels of a file; None is `defaults`.
        default_channels: What `defaults` stands for.
        custom_channels: Where channels of a name are: the address without the name.
        custom_multichannels: Names that stand for several channels.
        migrated_channel_aliases: Addresses in whose place the alias is taken.
        mirrored_channels: Where a channel's files are fetched instead, in order; by name or address.
        add_pip_as_python_dependency: Whether Python brings pip.
        offline: Whether only what was fetched before is used.
    """

    channel_alias: str | None = None
    channels: tuple[str, ...] | None = None
    default_channels: tuple[str, ...] | None = None
    custom_channels: Mapping[str, str] = field(default_factory=dict)
    custom_multichannels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    migrated_channel_aliases: tuple[str, ...] = ()
    mirrored_channels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    add_pip_as_python_dependency: bool = True
    offline: bool = False

    def __repr__(self) -> str:
        return f"CondaSettings(pip={self.add_pip_as_python_dependency}, offline={self.offline})"


#: What conda does where nobody set anything, and what a server does: its own user's settings are nobody else's.
NO_SETTINGS: Final = CondaSettings()


def read_settings(environment: Mapping[str, str], *, root: Path = Path("/")) -> CondaSettings:
    """
    Read the files that conda would, and its variables.

    Args:
        environment: Variables; `HOME` says where `~` is.
        root: What stands for `/` in the places of the machine.

    Raises:
        InvalidCondarc: One can't be understood.
    """
    sources = [_from_file(path, environment) for path in _files(environment, root)]
    return _merge([*sources, _from_variables(environment)])


def _files(environment: Mapping[str, str], root: Path) -> Iterator[Path]:
    for place in _SEARCHED:
        variable, _, rest = place.removeprefix("$").partition("/")
        if place.startswith("$"):
            if not environment.get(variable):
                continue
            path = Path(environment[variable]) / rest if rest else Path(environment[variable])
        elif place.startswith("~"):
            if not environment.get("HOME"):
                continue
            path = Path(environment["HOME"]) / place.removeprefix("~/")
        else:
            path = root / place.removeprefix("/")
        if path.is_file():
            yield path
        elif path.is_dir() and (place.endswith(".d") or place == "$CONDARC"):
            yield from sorted(each for each in path.iterdir() if each.suffix in {".yml", ".yaml"} and each.is_file())


def _from_file(path: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(_LIMIT + 1)
    except OSError as error:
        # As conda does: what is not for this user's eyes does not count.
        if isinstance(error, PermissionError):
            return {}
        raise InvalidCondarc(str(path), error.strerror or "can't be read") from error
    if len(data) > _LIMIT:
        raise InvalidCondarc(str(path), f"more than {_LIMIT >> 20} MiB")
    document = _parse(data, str(path))
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise InvalidCondarc(str(path), "not a mapping")
    found = {}
    for key, value in document.items():
        name = _ALIASES.get(str(key), str(key))
        if name in _READ and value is not None:
            found[name] = _checked(name, value, f"{path}: {name}", environment)
    return found


def _parse(data: bytes, where: str) -> object:
    """YAML without anchors, which could make little text into much data."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError
    from ruamel.yaml.events import AliasEvent

    try:
        text = data.decode()
        # The parser takes the square of their number in time.
        if text.count("[") + text.count("{") > _BRACKETS:
            raise InvalidCondarc(where, "more brackets than settings have")
        if any(isinstance(event, AliasEvent) for event in YAML(typ="safe", pure=True).parse(text)):
            raise InvalidCondarc(where, "aliases (`*name`) are not read")
        loader = YAML(typ="safe", pure=True)
        loader.version = (1, 1)
        return loader.load(text)
    except (YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark is not None else ""
        raise InvalidCondarc(where, f"not YAML{line}") from error


def _from_variables(environment: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in (*sorted(_ALIASES), *sorted(_TEXTS | _LISTS | _FLAGS)):
        variable = f"CONDA_{name.upper()}"
        value = environment.get(variable, "").strip()
        if not value:
            continue
        name = _ALIASES.get(name, name)
        given: object = [each.strip() for each in value.split(",") if each.strip()] if name in _LISTS else value
        found[name] = _checked(name, given, variable, environment)
    return found


def _checked(name: str, value: object, where: str, environment: Mapping[str, str]) -> Any:
    """A value in its form. Raises `InvalidCondarc`."""
    if name in _FLAGS:
        word = str(value).lower()
        if word not in _TRUE | _FALSE:
            raise InvalidCondarc(where, "expected true or false")
        return word in _TRUE
    if name in _TEXTS:
        text = _text(value, where, environment)
        if "://" not in text:
            raise InvalidCondarc(where, "expected an address with `https://`")
        return text
    if name in _LISTS:
        return _texts(value, where, environment)
    if not isinstance(value, dict):
        raise InvalidCondarc(where, "expected a mapping")
    names = {each: redact(str(each))[:100] for each in value}
    if name in _MAPS:
        return {str(key): _text(each, f"{where}.{names[key]}", environment) for key, each in value.items()}
    return {str(key): _texts(each, f"{where}.{names[key]}", environment) for key, each in value.items()}


def _texts(value: object, where: str, environment: Mapping[str, str]) -> tuple[str, ...]:
    items = value if isinstance(value, list) else [value]
    return tuple(_text(each, where, environment) for each in items)


def _text(value: object, where: str, environment: Mapping[str, str]) -> str:
    """Text with its variables filled in; those that are not set stay, as in conda."""
    if not isinstance(value, str) or not value.strip() or any(ord(char) < 32 for char in value):
        raise InvalidCondarc(where, "expected text on one line")
    return _expand(value.strip(), environment)


def _expand(text: str, environment: Mapping[str, str]) -> str:
    import re

    def filled(match: "re.Match[str]") -> str:
        return environment.get(match[1] or match[2], match[0])

    return re.sub(r"\$(?:(\w+)|\{([^}]*)\})", filled, text)


def _merge(sources: list[dict[str, Any]]) -> CondaSettings:
    """Stronger texts replace weaker ones, entries of maps one by one; stronger lists go before weaker ones."""
    merged: dict[str, Any] = {}
    for name in _READ:
        given = [each[name] for each in reversed(sources) if name in each]
        if not given:
            continue
        if name in _LISTS:
            merged[name] = tuple(dict.fromkeys(chain.from_iterable(given)))
        elif name in _MAPS | _MAPS_OF_LISTS:
            merged[name] = MappingProxyType({key: each for map in reversed(given) for key, each in map.items()})
        else:
            merged[name] = given[0]
    return CondaSettings(**merged)


def settings_of_this_machine() -> CondaSettings:
    """What the user of this process has set. Raises `InvalidCondarc`."""
    return read_settings({"HOME": str(Path.home()), **os.environ})
