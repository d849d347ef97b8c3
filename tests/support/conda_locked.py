"""Conda packages of tests as a lock has them."""

from mlenv.core.conda_package import CondaPackage
from mlenv.core.digest import Digest
from mlenv.core.lock import Artifact
from support.blobs import DirectoryBlobs
from support.conda_packages import Package

CHANNEL = "https://conda.example.org/main"


def locked(package: Package, *, requested: str | None = None, channel: str = CHANNEL) -> CondaPackage:
    """What a lock says of a package, as its record has it."""
    record = package.record
    url = f"{channel}/{record['subdir']}/{package.filename}"
    return CondaPackage(
        name=record["name"],
        version=record["version"],
        build=record["build"],
        build_number=record["build_number"],
        subdir=record["subdir"],
        channel=channel,
        artifact=Artifact(package.filename, record["size"], Digest(record["sha256"]), url),
        md5=record["md5"],
        depends=tuple(record["depends"]),
        constrains=tuple(record["constrains"]),
        noarch=record.get("noarch"),
        timestamp=record.get("timestamp"),
        license=record.get("license"),
        site_packages=record.get("python_site_packages_path"),
        requested=requested,
    )


def stored(blobs: DirectoryBlobs, package: Package, *, requested: str | None = None) -> CondaPackage:
    """Store a package, as fetching it would."""
    result = locked(package, requested=requested)
    blobs.put([package.data], digest=result.artifact.digest, size=len(package.data), what=package.filename)
    return result
