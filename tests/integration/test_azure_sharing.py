"""What comes along when a version is shared: locks, the names of images and bases; and what stays as it is."""

from datetime import UTC, datetime
from pathlib import Path

from support.server import in_process

from mlenv.core.audit import Author
from mlenv.core.digest import Digest
from mlenv.core.environment import Definition
from mlenv.core.image import Descriptor
from mlenv.core.layer import Compression
from mlenv.core.lock import Lock
from mlenv.core.platform import Glibc, Platform, Target
from mlenv.core.records import ImageKey
from mlenv.core.reference import EnvironmentName, Reference, VersionName
from mlenv.core.scope import Scope, ScopeKind
from mlenv.core.spec import Requirement, Spec
from mlenv.service.sharing import share

_NOW = datetime(2026, 1, 1, tzinfo=UTC)
_AMD64 = Platform("linux", "amd64")
_BASE = Digest.of(b"base")
_IMAGE = Descriptor("application/vnd.oci.image.manifest.v1+json", Digest.of(b"image"), 5)
_AUTHOR = Author("1", "somebody")
_NAME = EnvironmentName("train")


def test_locks_images_and_bases_come_along(tmp_path: Path) -> None:
    with in_process(tmp_path) as server:
        site, services = server.hosted.site, server.hosted.services
        scope = Scope(ScopeKind.REGISTRY, "shared", "0e4cb0cc-0001-4000-8000-000000000000", "s", "g", "local", _NOW)
        site.store.add_scope(scope, author=_AUTHOR, now=_NOW)
        source = services(site.scope(ScopeKind.WORKSPACE, "default"), _AUTHOR)
        target = services(scope, _AUTHOR)
        spec = Spec(image="python:3.11", requirements=(Requirement("numpy"),))
        made = source.environments.create(
            Definition(_NAME, spec, VersionName("1"), "words", {"a": "b"}, details={"stage": "Production"})
        ).version
        lock = Lock(Target(_AMD64, "3.11.2", Glibc(2, 36)), (), "uv 1", base=_BASE)
        text = lock.to_pylock().encode()
        source.blobs.put([text], digest=lock.digest, size=len(text), what="lock")
        source.registry.add_lock(_NAME, made.version, _AMD64, lock.digest, now=_NOW)
        key = ImageKey(lock.digest, _BASE, spec.digest, Compression.ZSTD)
        source.registry.add_image(key, _IMAGE, now=_NOW)
        source.registry.set_base("docker.io/library/python:3.11", _BASE, now=_NOW)

        for new in (True, False):
            shared = share(source, target, Reference(_NAME, made.version), version=VersionName("9"), clock=lambda: _NOW)
            assert shared.new is new
        assert (shared.version.description, shared.version.tags) == ("words", {"a": "b"})
        assert shared.version.details == {"stage": "Production"}
        assert target.registry.lock_of(_NAME, VersionName("9"), _AMD64) == lock.digest
        assert target.registry.image_of(key) == _IMAGE
        assert target.registry.base("docker.io/library/python:3.11") == _BASE

        moved = Digest.of(b"newer base")
        source.registry.set_base("docker.io/library/python:3.11", moved, now=_NOW)
        share(source, target, Reference(_NAME, made.version), version=VersionName("10"), clock=lambda: _NOW)
        assert target.registry.base("docker.io/library/python:3.11") == _BASE
