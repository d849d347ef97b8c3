"""
mlenv: the registry for ML environments that you host yourself.

    from mlenv import Client

    with Client("https://mlenv.example.org:8443", token) as client:
        version = client.create("environment.yml")
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlenv.client.client import Client as Client

__all__ = ["Client", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """The client, imported when somebody asks for it: the command line starts without."""
    if name == "Client":
        from mlenv.client.client import Client

        return Client
    raise AttributeError(f"module 'mlenv' has no attribute {name!r}")
