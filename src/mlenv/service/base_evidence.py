"""What is attached to a base image when it is pushed."""

from typing import TYPE_CHECKING

from mlenv.core.digest import Digest
from mlenv.core.evidence import EvidenceKind, artifact_manifest
from mlenv.core.image import Descriptor, Image
from mlenv.service.evidence import Attachment

if TYPE_CHECKING:
    from mlenv.build.interface import Blobs


def package_list(image: Image, blobs: "Blobs") -> Attachment | None:
    """The list of an image's Debian packages, or None if it has none. Raises as `debian_packages`."""
    from mlenv.build.debian_packages import debian_packages, packages_document

    packages = debian_packages(image, blobs)
    if not packages:
        return None
    kind, data = EvidenceKind.PACKAGES, packages_document(packages)
    content = Descriptor(kind.media_type, Digest.of(data), len(data))
    return Attachment(kind, artifact_manifest(kind, image.manifest, content.digest, content.size), content, data)
