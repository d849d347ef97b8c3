"""
Runs pieces of Python beside Azure's client: one JSON object per line in, one out.

This file is run by interpreters that have that client and nothing of this project.
"""

import faulthandler
import importlib
import json
import os
import sys
import traceback
from typing import Any


class Credential:
    """Shows one token for everything."""

    def __init__(self, token: str) -> None:
        self._token = token

    def get_token(self, *scopes: str, **options: object) -> Any:
        return importlib.import_module("azure.core.credentials").AccessToken(self._token, 9999999999)


def connect(settings: dict[str, Any], **more: Any) -> Any:
    """A client, connected as its users do it; for a registry with `registry_name`."""
    base = settings["base"]
    cloud = {
        "azure_portal": f"{base}/portal",
        "resource_manager": base,
        "active_directory": f"{base}/adfs",
        "aml_resource_id": base,
        "storage_endpoint": "local",
        "registry_discovery_endpoint": f"{base}/",
    }
    where = [] if more else [settings["subscription"], settings["group"], settings["workspace"]]
    client = importlib.import_module("azure.ai.ml").MLClient
    return client(Credential(settings["token"]), *where, cloud="LocalAML", cloud_metadata=cloud, **more)


def main() -> None:
    settings, limit = json.loads(sys.argv[1]), float(sys.argv[2])
    # What the client prints is not to come between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    kept: dict[str, Any] = {}
    for name in ("azure.ai.ml", "azure.ai.ml.entities", "azure.ai.ml.constants"):
        module = importlib.import_module(name)
        kept |= {each: getattr(module, each) for each in dir(module) if not each.startswith("_")}
    kept |= {"connect": connect, "settings": settings, "client": connect(settings)}
    if settings["registry"]:
        kept["registry"] = connect(settings, registry_name=settings["registry"])
    for line in sys.stdin:
        faulthandler.dump_traceback_later(limit, exit=True)
        asked = json.loads(line)
        names = {**kept, **asked["values"], "result": None}
        try:
            exec(asked["code"], names)  # noqa: S102 - that is what it is for
            answer = {"result": names["result"]}
            text = json.dumps(answer)
        except Exception as error:  # noqa: BLE001 - whatever it is, the test is told
            told = getattr(error, "error", None)
            text = json.dumps(
                {
                    "kind": type(error).__name__,
                    "status": getattr(error, "status_code", None),
                    "code": getattr(told, "code", None) or "",
                    "text": getattr(told, "message", None) or str(error),
                    "trace": traceback.format_exc(),
                }
            )
        faulthandler.cancel_dump_traceback_later()
        answers.write(text + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
