"""The flags of a server's settings, made of their definitions, and what was given of them."""

import argparse
import types
from pathlib import Path
from typing import Any, Final, get_args

from mlenv.server.settings import FILE_VARIABLE, Settings, flag, variable

#: What only a process that answers requests needs.
_SERVING: Final = frozenset(
    {
        "host",
        "port",
        "trusted_proxies",
        "tls_certificate",
        "tls_key",
        "insecure_http",
        "force_insecure_http",
        "processes",
        "max_body",
        "max_upload",
        "max_headers",
        "max_page",
        "upload_rate",
        "body_timeout",
        "body_rate",
        "keep_alive",
        "access_log",
        "metrics",
        "oidc_issuer",
        "oidc_client_id",
        "oidc_client_secret",
    }
)
#: Secrets are given by variable or file: other users of a machine see command lines.
_NO_FLAG: Final = frozenset({"oidc_client_secret"})


def add_flags(parser: argparse.ArgumentParser, *, serving: bool = True) -> None:
    """Add a flag for every setting; for a worker, only for those that it needs."""
    parser.add_argument("--config", type=Path, metavar="FILE", help=f"settings in TOML (default: ${FILE_VARIABLE})")
    for name, described in Settings.model_fields.items():
        if name in _NO_FLAG or (not serving and name in _SERVING):
            continue
        text = f"{described.description} (${variable(name)}; default: {_default(name)})".replace("%", "%%")
        if described.annotation is bool:
            action = argparse.BooleanOptionalAction
            parser.add_argument(flag(name), dest=f"setting_{name}", action=action, default=None, help=text)
        else:
            metavar = _metavar(described.annotation)
            parser.add_argument(flag(name), dest=f"setting_{name}", metavar=metavar, help=text)


def given(namespace: argparse.Namespace) -> dict[str, Any]:
    """The settings that flags gave."""
    found = {
        name.removeprefix("setting_"): value for name, value in vars(namespace).items() if name.startswith("setting_")
    }
    return {name: value for name, value in found.items() if value is not None}


def _default(name: str) -> str:
    if name == "home":
        return "where `mlenv` keeps its store"
    value = Settings.model_fields[name].default
    return (
        "none" if value is None or value == () else "off" if value is False else "on" if value is True else str(value)
    )


def _metavar(annotation: Any) -> str:
    kinds = [each for each in get_args(annotation) if each is not types.NoneType] or [annotation]
    return {int: "NUMBER", float: "NUMBER", Path: "PATH"}.get(kinds[0], "TEXT")
