"""Sharing: a version of one namespace becomes a version of another, with its locks and images."""

from typing import TYPE_CHECKING, Final

from mlenv.core.environment import Definition, EnvironmentVersion
from mlenv.core.image_name import full_name
from mlenv.core.layer import Compression
from mlenv.core.lock import Lock
from mlenv.core.platform import Platform
from mlenv.core.records import ImageKey
from mlenv.core.reference import EnvironmentName, Reference, VersionName
from mlenv.service.attaching import share_evidence
from mlenv.service.environments import Created
from mlenv.service.lock_files import LockNotMade

if TYPE_CHECKING:
    from mlenv.service.interface import Clock
    from mlenv.service.services import Services

#: What a version that names no platforms may be locked for.
_PLATFORMS: Final = tuple(
    Platform.parse(each) for each in ("linux/amd64", "linux/arm64", "darwin/arm64", "darwin/amd64", "windows/amd64")
)


def share(
    source: "Services",
    target: "Services",
    reference: Reference,
    *,
    name: EnvironmentName | None = None,
    version: VersionName | None = None,
    clock: "Clock",
) -> Created:
    """
    Make a version of one namespace a version of another. Shared again, it is the same version.

    What it is comes along: content, description, tags, details, locks, the names of images and of their base, and what
    is attached to the images. Bytes are shared by all namespaces of a site. The name of a base that points elsewhere in the target stays as it is.

    Args:
        reference: The version, in `source`.
        name, version: What it is called in `target`, if not the same.

    Raises:
        EnvironmentNotFound, VersionNotFound, LabelNotFound, NoVersions: There is no such version.
        VersionConflict: The target has that version with other content.
    """
    found = source.environments.version(Reference(reference.name, reference.version, reference.label))
    definition = Definition(
        name=name or found.name,
        spec=found.spec,
        version=version or found.version,
        description=found.description,
        tags=found.tags,
        details=found.details,
    )
    created = target.environments.create(definition)
    _share_base(source, target, found, clock)
    for platform in found.spec.platforms or _PLATFORMS:
        _share_lock(source, target, found, created.version, platform, clock)
    return created


def _share_base(source: "Services", target: "Services", found: EnvironmentVersion, clock: "Clock") -> None:
    if found.spec.image is None:
        return
    name = full_name(found.spec.image)
    base = source.registry.base(name)
    if base is not None and target.registry.base(name) is None:
        target.registry.set_base(name, base, now=clock())


def _share_lock(
    source: "Services",
    target: "Services",
    found: EnvironmentVersion,
    shared: EnvironmentVersion,
    platform: Platform,
    clock: "Clock",
) -> None:
    """Name the lock and its images in the target. A lock that is there already stays, and then has its own images."""
    try:
        digest, text = source.lock_files.read(found, platform)
    except LockNotMade:
        return
    kept = target.registry.add_lock(shared.name, shared.version, platform, digest, now=clock())
    base = Lock.from_pylock(text.decode()).foundation
    if kept != digest or base is None:
        return
    for compression in Compression:
        key = ImageKey(digest, base, found.spec.digest, compression)
        image = source.registry.image_of(key)
        if image is not None:
            target.registry.add_image(key, image, now=clock())
            share_evidence(source.repositories, found.name, target.repositories, shared.name, image.digest)
