"""The use cases of one namespace, as `Site.open` gives them."""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from mlenv.core.scope import Scope
    from mlenv.service.assets import Assets
    from mlenv.service.bases import Bases
    from mlenv.service.builds import Builds
    from mlenv.service.environments import Environments
    from mlenv.service.files import Files
    from mlenv.service.image_files import ImageFiles
    from mlenv.service.interface import Registry
    from mlenv.service.jobs import Jobs
    from mlenv.service.lock_files import LockFiles
    from mlenv.service.locking import Locking
    from mlenv.service.repositories import Repositories


class Services(Protocol):
    """
    What can be done in a namespace. Members are made when they are first used; `mlenv.wiring` makes them.

    What was opened for reading refuses to write.
    """

    @property
    def scope(self) -> "Scope": ...
    @property
    def registry(self) -> "Registry": ...
    @property
    def environments(self) -> "Environments": ...
    @property
    def locking(self) -> "Locking": ...
    @property
    def lock_files(self) -> "LockFiles": ...
    @property
    def image_files(self) -> "ImageFiles": ...
    @property
    def bases(self) -> "Bases": ...
    @property
    def builds(self) -> "Builds": ...
    @property
    def assets(self) -> "Assets": ...
    @property
    def files(self) -> "Files": ...
    @property
    def jobs(self) -> "Jobs": ...
    @property
    def repositories(self) -> "Repositories": ...
