"""Conda packages of tests as a lock has them, and such locks."""

from datetime import UTC, datetime

from mlenv.core.conda_package import CondaPackage
from mlenv.core.digest import Digest
from mlenv.core.lock import Artifact, Lock, LockedPackage
from mlenv.core.platform import Glibc, Platform, Target
from mlenv.core.reference import EnvironmentName, VersionName
from mlenv.wiring.embedded import Embedded
from support.blobs import DirectoryBlobs
from support.conda_packages import Package

CHANNEL = "https://conda.example.org/main"
LINUX = Platform("linux", "amd64")


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


def conda_lock(*packages: CondaPackage, wheels: tuple[LockedPackage, ...] = ()) -> Lock:
    """A lock of conda packages, for the Python among them."""
    python = next((each.version for each in packages if each.name == "python"), "")
    ordered = tuple(sorted(packages, key=lambda each: each.name))
    return Lock(Target(LINUX, python, Glibc(2, 28)), wheels, "py-rattler 0.28.0", conda=ordered)


def keep_lock(store: Embedded, name: str, lock: Lock) -> None:
    """Make it the lock of the first version of an environment, as locking would."""
    data = lock.to_pylock().encode()
    store.blobs.put([data], digest=lock.digest, size=len(data), what="pylock.toml")
    now = datetime(2026, 1, 1, tzinfo=UTC)
    store.registry.add_lock(EnvironmentName(name), VersionName("1"), LINUX, lock.digest, now=now)
