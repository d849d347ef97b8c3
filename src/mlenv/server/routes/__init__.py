"""Routes of the native API, under `/api/v1`."""

from typing import Final

#: Modules with routes. Each has a `router`, whose paths begin after `/api/v1`.
ROUTERS: Final = (
    "mlenv.server.routes.site",
    "mlenv.server.routes.audit",
    "mlenv.server.routes.login",
    "mlenv.server.routes.environments",
    "mlenv.server.routes.labels",
    "mlenv.server.routes.locks",
    "mlenv.server.routes.uses",
    "mlenv.server.routes.bases",
    "mlenv.server.routes.blobs",
    "mlenv.server.routes.builds",
    "mlenv.server.routes.jobs",
)
