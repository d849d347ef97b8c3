"""Azure's dialect: a translation of its requests and answers onto the use cases."""

from typing import Final

#: Modules with routes. Each has a `router`, whose paths are whole.
ROUTERS: Final[tuple[str, ...]] = (
    "mlenv.server.azure.environments",
    "mlenv.server.azure.registries",
    "mlenv.server.azure.workspaces",
    "mlenv.server.azure.datastores",
    "mlenv.server.azure.codes",
    "mlenv.server.azure.components",
    "mlenv.server.azure.endpoints",
    "mlenv.server.azure.jobs",
    "mlenv.server.azure.metadata",
    "mlenv.server.azure.blobs",
)
