"""What was built of environments, in SQL: for the repositories that show it."""

from mlenv.core.layer import Compression
from mlenv.core.platform import Platform
from mlenv.core.reference import EnvironmentName, VersionName
from mlenv.core.repositories import Built
from mlenv.store.database import Database, Row
from mlenv.store.record_rows import to_descriptor


class SqlBuilt:
    """
    A `service.environment_images.BuiltStore` over a database.

    Args:
        workspace: Whose environments they are.
    """

    def __init__(self, database: Database, workspace: str) -> None:
        self._database, self._workspace = database, workspace

    def is_environment(self, name: str) -> bool:
        """See `service.environment_images.BuiltStore`."""
        return bool(self._database.ask("is_environment", workspace=self._workspace, name=name))

    def count_environments(self) -> int:
        """See `service.environment_images.BuiltStore`."""
        return int(self._database.ask("count_environments", workspace=self._workspace)[0]["environments"])

    def environment_names(self) -> list[EnvironmentName]:
        """See `service.environment_images.BuiltStore`."""
        found = self._database.ask("environment_names", workspace=self._workspace)
        return [EnvironmentName(row["name"]) for row in found]

    def built(self, name: EnvironmentName, version: VersionName) -> list[Built]:
        """See `service.environment_images.BuiltStore`."""
        found = self._database.ask("built", workspace=self._workspace, name=name, version=version)
        return [_built(row) for row in found]

    def all_built(self, name: EnvironmentName) -> list[Built]:
        """See `service.environment_images.BuiltStore`."""
        return [_built(row) for row in self._database.ask("all_built", workspace=self._workspace, name=name)]


def _built(row: Row) -> Built:
    platform, compression = Platform.parse(row["platform"]), Compression(row["compression"])
    return Built(VersionName(row["version"]), platform, compression, to_descriptor(row))
