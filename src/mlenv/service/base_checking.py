"""Which environments stand on a base image whose tag has moved since they were locked."""

from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import TYPE_CHECKING

from msgspec import Struct

from mlenv.core.digest import Digest
from mlenv.core.environment import EnvironmentVersion
from mlenv.core.image_name import full_name, is_file_source
from mlenv.core.lock import Lock, LockedBase
from mlenv.core.platform import Platform
from mlenv.core.progress import Progress
from mlenv.errors import MlenvError

if TYPE_CHECKING:
    from mlenv.distribution.names import RemoteName
    from mlenv.distribution.registries import Registries
    from mlenv.service.bases import Bases


class BaseState(StrEnum):
    """What is found out about a lock's base."""

    CURRENT = "current"
    MOVED = "moved"
    UNKNOWN = "unknown"


class CheckedBase(Struct, frozen=True):
    """
    A version for one platform, and its base.

    Attributes:
        image: As the spec, or its Dockerfile, says it.
        locked: The base that the lock names.
        now: What the image's tag means now; None if the registry does not say.
        why: Why it does not say, or None.
    """

    version: EnvironmentVersion
    platform: Platform
    image: str
    locked: Digest
    now: Digest | None
    why: str | None = None

    @property
    def state(self) -> BaseState:
        """What that comes to."""
        if self.now is None:
            return BaseState.UNKNOWN
        return BaseState.CURRENT if self.now == self.locked else BaseState.MOVED


def check_bases(
    locks: Iterable[tuple[EnvironmentVersion, Platform, Lock]],
    bases: "Bases",
    registries: "Registries",
    *,
    name: str | None = None,
    progress: Progress,
) -> Iterator[CheckedBase]:
    """
    Ask registries what tags mean now, each once. Bases that came from no registry, or by digest, are passed over.

    Args:
        name: Only environments on this base.
    """
    from mlenv.distribution.names import RemoteName

    known: dict[tuple[str, Platform], Digest | MlenvError] = {}
    for version, platform, lock in locks:
        for base in _bases_of(version, lock):
            image = base.name
            if is_file_source(image) or "@" in image or (name is not None and full_name(image) != full_name(name)):
                continue
            remote = RemoteName.parse(image)
            places = {(each.host, each.repository) for each in bases.origins(base.digest)}
            if (remote.host, remote.repository) not in places:
                continue
            key = (str(remote), base.platform or platform)
            if key not in known:
                known[key] = _ask(remote, key[1], registries, progress)
            now = known[key]
            if isinstance(now, MlenvError):
                yield CheckedBase(version, platform, image, base.digest, None, str(now))
            else:
                yield CheckedBase(version, platform, image, base.digest, now)


def _bases_of(version: EnvironmentVersion, lock: Lock) -> Iterator[LockedBase]:
    """What a lock stands on: one image, or those that its Dockerfile names."""
    if version.spec.image is not None and lock.base is not None:
        yield LockedBase(version.spec.image, lock.base)
    if lock.context is not None:
        yield from lock.context.bases


def _ask(remote: "RemoteName", platform: Platform, registries: "Registries", progress: Progress) -> Digest | MlenvError:
    from mlenv.service.pulling import resolve

    try:
        registries.check_reachable(remote)
        with registries.open(remote, progress=progress) as repository:
            return resolve(repository, remote.reference, platform=platform)
    except MlenvError as error:
        return error
