"""A server's settings: from flags, the environment and a file, in that order, each with where it came from."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import tomli
from msgspec import Struct
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from mlenv.core.redact import redact
from mlenv.core.site_policy import SitePolicy
from mlenv.errors import InvalidInput

#: What a variable of the environment begins with: `port` is `MLENV_PORT`.
PREFIX: Final = "MLENV_"
#: The variable that names the file.
FILE_VARIABLE: Final = "MLENV_CONFIG"
#: Hosts that only this machine reaches.
LOOPBACK: Final = {"127.0.0.1", "::1", "localhost"}
#: The size above which a settings file is not read, in bytes.
_FILE_LIMIT: Final = 1 << 20

_Size = Annotated[int, Field(gt=0, le=1 << 50)]
_Seconds = Annotated[float, Field(gt=0, le=86400 * 7)]


class InvalidSettings(InvalidInput):
    """A setting that makes no sense, or a file that can't be read."""

    hint = "`mlenv server config` lists all settings, and `mlenv server start --help` says what they mean"


def _words(value: Any) -> Any:
    """What flags and variables say in one text."""
    return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value


class Settings(BaseModel):
    """
    What a server or worker does, and where.

    Sizes are in bytes, times in seconds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    home: Path = Field(description="the directory of blobs, keys, logs and, without --database, of the rows")
    database: SecretStr | None = Field(
        None, description="postgresql://USER@HOST/NAME; the SQLite file in home if not given"
    )
    host: str = Field("127.0.0.1", min_length=1, description="the address to listen on")
    port: int = Field(8443, ge=0, le=65535, description="the port to listen on; 0 for any that is free")
    public_url: str | None = Field(None, description="how clients reach the server, if not as https://HOST:PORT")
    trusted_proxies: str | None = Field(None, description="addresses of proxies whose X-Forwarded-For is believed")
    tls_certificate: Path | None = Field(None, description="a certificate with its chain (PEM), in place of an own one")
    tls_key: Path | None = Field(None, description="the key of that certificate (PEM, without a passphrase)")
    insecure_http: bool = Field(False, description="speak plain http, without TLS; on loopback only")
    force_insecure_http: bool = Field(False, description="speak plain http on any address, as behind a proxy")
    workers: int = Field(2, ge=0, le=1024, description="how many builds and jobs run at once; 0 for none")
    workspace_workers: int = Field(
        0, ge=0, le=1024, description="how many of them for one workspace; 0 for no such limit"
    )
    processes: int = Field(
        0, ge=0, le=256, description="how many processes answer requests; 0 for one more than there are cores"
    )
    max_body: _Size = Field(16 << 20, description="largest body of a request")
    max_upload: _Size = Field(16 << 30, description="largest body of an upload of bytes")
    max_headers: int = Field(32 << 10, ge=1024, le=1 << 20, description="largest head of a request")
    max_page: int = Field(500, ge=1, le=10_000, description="most items of one page")
    upload_rate: float = Field(
        200.0, ge=0, description="uploads per second and token, beyond which 429 is answered; 0 for no limit"
    )
    body_timeout: _Seconds = Field(30.0, description="how long a client may take to send a body, besides its size")
    body_rate: _Size = Field(16 << 10, description="bytes per second that a client must manage to send, on the whole")
    keep_alive: _Seconds = Field(75.0, description="how long an idle connection stays open")
    shutdown_timeout: _Seconds = Field(
        30.0, description="how long requests and builds have to end when the server stops"
    )
    build_timeout: _Seconds = Field(3600.0, description="how long one build may take")
    step_timeout: _Seconds = Field(1800.0, description="how long one step of a build may take")
    max_log: _Size = Field(1 << 30, description="largest log of a build or job; what comes after is left out")
    source_builds: bool = Field(
        False, description="build packages from source where a spec allows it, which runs their authors' code"
    )
    indexes: Annotated[tuple[str, ...], BeforeValidator(_words)] = Field(
        (),
        description="beginnings of addresses that specs may name as indexes, besides the machine's own; commas between",
    )
    build_network: Literal["none", "default"] = Field(
        "none", description="what steps of a Dockerfile may reach: nothing, or by default what this machine can"
    )
    build_engine: Literal["docker", "buildctl", "buildah", "podman"] | None = Field(
        None, description="what builds Dockerfiles; the first that answers if not given"
    )
    log_format: Literal["auto", "text", "json"] = Field("auto", description="text, json, or auto: text on a terminal")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="the least grave that is logged"
    )
    access_log: bool = Field(True, description="log every request")
    metrics: bool = Field(True, description="offer /metrics")
    oidc_issuer: str | None = Field(None, description="the OpenID Connect provider that people log in at")
    oidc_client_id: str | None = Field(None, description="the server's client id there")
    oidc_client_secret: SecretStr | None = Field(None, description="the server's secret there")

    @field_validator("public_url", "oidc_issuer")
    @classmethod
    def _is_address(cls, value: str | None) -> str | None:
        from urllib.parse import urlsplit

        if value is None:
            return None
        parts = urlsplit(value)
        if (
            parts.scheme not in {"http", "https"}
            or not parts.hostname
            or parts.query
            or parts.fragment
            or "@" in parts.netloc
        ):
            raise ValueError("write it as https://HOST or https://HOST:PORT")
        return value.rstrip("/")

    @field_validator("indexes")
    @classmethod
    def _are_addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        from urllib.parse import urlsplit

        for each in value:
            parts = urlsplit(each)
            if parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc or parts.query:
                raise ValueError("write each as https://HOST/PATH, without credentials")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> "Settings":
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key go together")
        if self.insecure_http and not self.force_insecure_http and self.host not in LOOPBACK:
            raise ValueError(
                f"insecure_http would send tokens in the clear to {self.host}: "
                "listen on 127.0.0.1, or say force_insecure_http as well"
            )
        return self

    @property
    def plain(self) -> bool:
        """Whether the server speaks without TLS."""
        return self.insecure_http or self.force_insecure_http

    @property
    def policy(self) -> SitePolicy:
        """What the site's machines do for those who use it."""
        return SitePolicy(self.source_builds, self.indexes, self.build_network, self.build_engine)

    @property
    def database_url(self) -> str | None:
        """Where the rows are, with its password; None for the file in home."""
        return self.database.get_secret_value() if self.database is not None else None

    @property
    def process_count(self) -> int:
        """How many processes answer requests."""
        return self.processes or usual_processes()


def usual_processes() -> int:
    """One more than there are cores: one or the other waits for its own threads."""
    return (os.cpu_count() or 1) + 1


class Loaded(Struct, frozen=True):
    """
    Settings, and where each came from.

    Attributes:
        origins: By name: `flag --port`, `MLENV_PORT`, `file.toml`, or `default`.
    """

    settings: Settings
    origins: Mapping[str, str]

    def documents(self) -> list[dict[str, Any]]:
        """Every setting as plain data, without secrets, in the order of their definition."""
        found = []
        for name, described in Settings.model_fields.items():
            value = getattr(self.settings, name)
            found.append(
                {
                    "setting": name,
                    "value": _shown(value),
                    "origin": self.origins[name],
                    "flag": flag(name),
                    "variable": variable(name),
                    "meaning": described.description,
                }
            )
        return found


def flag(name: str) -> str:
    """The flag of a setting."""
    return "--" + name.replace("_", "-")


def variable(name: str) -> str:
    """The variable of a setting."""
    return PREFIX + name.upper()


def load(flags: Mapping[str, Any], environment: Mapping[str, str], *, file: Path | None, default_home: Path) -> Loaded:
    """
    Put settings together. Flags come before the environment, which comes before the file.

    Args:
        flags: By name; only those that were given.
        file: The file, or None for what `MLENV_CONFIG` says, or for none.
        default_home: Where the store is if nothing says so.

    Raises:
        InvalidSettings, ExceptionGroup: Something makes no sense; each error names where it came from.
    """
    if file is None and (named := environment.get(FILE_VARIABLE)):
        file = Path(named)
    values: dict[str, Any] = {"home": default_home}
    origins = dict.fromkeys(Settings.model_fields, "default")
    layers: list[tuple[Mapping[str, Any], Any]] = []
    if file is not None:
        layers.append((_read(file), lambda _: str(file)))
    present = {name: environment[variable(name)] for name in Settings.model_fields if environment.get(variable(name))}
    layers += [(present, variable), (flags, lambda name: f"flag {flag(name)}")]
    for layer, origin in layers:
        for name, value in layer.items():
            values[name], origins[name] = value, origin(name)
    values["home"] = Path(values["home"]).expanduser().absolute()
    try:
        return Loaded(Settings.model_validate(values), origins)
    except ValidationError as error:
        raise _refused(error, origins) from None


def _read(file: Path) -> dict[str, Any]:
    """The settings of a TOML file: names with `_` or `-`."""
    try:
        with file.open("rb") as stream:
            data = stream.read(_FILE_LIMIT + 1)
        if len(data) > _FILE_LIMIT:
            raise InvalidSettings(f"{file}: a settings file is not that large")
        document = tomli.loads(data.decode())
    except OSError as error:
        raise InvalidSettings(f"the settings file can't be read: {file}: {error.strerror}") from error
    except (tomli.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidSettings(f"{file} is not TOML: {error}") from error
    found = {name.replace("-", "_"): value for name, value in document.items()}
    for name in found:
        if name not in Settings.model_fields:
            raise _unknown(name, file)
    return found


def _unknown(name: str, file: Path) -> InvalidSettings:
    import difflib

    near = difflib.get_close_matches(name, Settings.model_fields, n=1)
    error = InvalidSettings(f"{file}: there is no setting {name!r}")
    if near:
        error.hint = f"did you mean {near[0]}?"
    return error


def _refused(error: ValidationError, origins: Mapping[str, str]) -> Exception:
    leaves = []
    for each in error.errors(include_input=False, include_url=False):
        name = str(each["loc"][0]) if each["loc"] else ""
        message = each["msg"].removeprefix("Value error, ")
        where = f"{name} ({origins[name]}): " if name in origins else ""
        leaves.append(InvalidSettings(f"{where}{message}"))
    return leaves[0] if len(leaves) == 1 else ExceptionGroup("several settings make no sense", leaves)


def _shown(value: Any) -> Any:
    if isinstance(value, SecretStr):
        text = redact(value.get_secret_value())
        return text if "://" in text else "(hidden)"
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value
