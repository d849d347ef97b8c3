"""Small images made of dictionaries, as OCI layouts, OCI archives or docker archives."""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard

from mlenv.store.oci import OciLayout

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
TAR = "application/vnd.oci.image.layer.v1.tar"


@dataclass(frozen=True)
class Symlink:
    target: str


@dataclass(frozen=True)
class Hardlink:
    target: str


#: Path to content; None is a directory. A whiteout is a file of its name: `etc/.wh.passwd`, `etc/.wh..wh..opq`.
Files = Mapping[str, bytes | Symlink | Hardlink | None]


def make_tar(files: Files) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            if content is None:
                info.type = tarfile.DIRTYPE
            elif isinstance(content, Symlink):
                info.type, info.linkname = tarfile.SYMTYPE, content.target
            elif isinstance(content, Hardlink):
                info.type, info.linkname = tarfile.LNKTYPE, content.target
            else:
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return buffer.getvalue()


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def pack(tar: bytes, compression: str) -> bytes:
    if compression == "gzip":
        return gzip.compress(tar, mtime=0)
    return zstandard.compress(tar) if compression == "zstd" else tar


class LayoutBuilder:
    """An OCI layout whose every part can be made wrong."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "blobs/sha256").mkdir(parents=True)
        (root / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')

    def blob(self, data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
        (self.root / "blobs/sha256" / hashlib.sha256(data).hexdigest()).write_bytes(data)
        return {"mediaType": media_type, "digest": digest_of(data), "size": len(data), **more}

    def document(self, document: object, media_type: str, **more: Any) -> dict[str, Any]:
        return self.blob(json.dumps(document).encode(), media_type, **more)

    def image(
        self,
        layers: Sequence[Files | bytes],
        config: Mapping[str, Any] | None = None,
        *,
        compression: str = "gzip",
        architecture: str = "amd64",
        diff_ids: Sequence[str] | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        tars = [each if isinstance(each, bytes) else make_tar(each) for each in layers]
        media_type = TAR if compression == "plain" else f"{TAR}+{compression}"
        document = {
            "os": "linux",
            "architecture": architecture,
            "config": dict(config or {}),
            "rootfs": {"type": "layers", "diff_ids": list(diff_ids or map(digest_of, tars))},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.document(document, CONFIG),
            "layers": [self.blob(pack(tar, compression), media_type) for tar in tars],
        }
        return self.document(manifest, MANIFEST, **more)

    def index(self, *entries: dict[str, Any], **more: Any) -> dict[str, Any]:
        return self.document({"schemaVersion": 2, "mediaType": INDEX, "manifests": list(entries)}, INDEX, **more)

    def finish(self, *entries: dict[str, Any]) -> Path:
        (self.root / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": list(entries)}))
        return self.root


def make_image(
    directory: Path, layers: Sequence[Files], config: Mapping[str, Any] | None = None, *, compression: str = "gzip"
) -> Path:
    """An OCI layout with one image in it."""
    builder = LayoutBuilder(directory)
    return builder.finish(builder.image(layers, config, compression=compression))


def name(text: str) -> dict[str, Any]:
    return {"annotations": {"org.opencontainers.image.ref.name": text}}


def platform(architecture: str) -> dict[str, Any]:
    return {"platform": {"os": "linux", "architecture": architecture}}


def archive_of(directory: Path, target: Path) -> Path:
    """An OCI archive of a layout."""
    with tarfile.open(target, "w") as tar:
        for path in sorted(directory.rglob("*")):
            tar.add(path, path.relative_to(directory).as_posix(), recursive=False)
    return target


def docker_archive(
    target: Path, layers: Sequence[Files], *, tags: Sequence[str] = ("env:1",), links: bool = False
) -> Path:
    """What `docker save` writes. With `links`, the last layer is a link to the one before, as old versions had it."""
    tars = [make_tar(each) for each in layers]
    config = {
        "os": "linux",
        "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": [digest_of(t) for t in tars]},
    }
    names = [f"{number}/layer.tar" for number in range(len(tars))]
    files: dict[str, bytes | Symlink | Hardlink | None] = dict(zip(names, tars, strict=True))
    if links:
        files[names[-1]] = Symlink(f"../{len(tars) - 2}/layer.tar")
    files["config.json"] = json.dumps(config).encode()
    files["manifest.json"] = json.dumps([{"Config": "config.json", "RepoTags": list(tags), "Layers": names}]).encode()
    target.write_bytes(make_tar(files))
    return target


def new_store(directory: Path) -> OciLayout:
    return OciLayout(directory / "store")
