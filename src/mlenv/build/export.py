"""Images to files that other tools read. The same image gives the same bytes, and a file is whole or not there."""

import json
import os
import re
import secrets
import shutil
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO, Final, TypeAlias

from mlenv.build.interface import Blobs
from mlenv.build.unpacking import CHUNK, open_unpacked
from mlenv.core.digest import Digest
from mlenv.core.image import CONTAINERD_NAME, INDEX_TYPE, Descriptor, Image, encode
from mlenv.core.image_name import local_name
from mlenv.core.layer import MTIME
from mlenv.core.progress import Progress, Silent
from mlenv.errors import Conflict, InvalidInput

_KINDS: Final = ("oci-archive", "docker-archive", "dir")
_UNPACKED: Final = 128 << 30
_Advance: TypeAlias = Callable[[int], None]
#: A repository and a tag as Docker takes them (distribution, reference grammar).
_DOCKER_NAME: Final = re.compile(
    r"([a-zA-Z0-9.-]+(:[0-9]+)?/)?[a-z0-9]+([._/-]+[a-z0-9]+)*(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?"
)


class TargetExists(Conflict):
    """What would be written is there already."""

    hint = "choose another name, or overwrite it with --force"

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} exists")
        self.path = path


def export_image(
    image: Image,
    target: str,
    blobs: Blobs,
    *,
    name: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Path:
    """
    Write an image to a file or a directory.

    Args:
        target: `oci-archive:FILE`, `docker-archive:FILE` (for `docker load`) or `dir:PATH` (skopeo's own format).
        name: What the image is called inside, `repository:tag`; None for no name.
        force: Replace what is there.

    Returns:
        What was written.

    Raises:
        InvalidInput: An unknown kind of target, or a name that the format can't hold.
        TargetExists: It is there already.
    """
    kind, path = require_target(target, force=force)
    if name is not None and (len(name) > 255 or not _DOCKER_NAME.fullmatch(name)):
        raise InvalidInput(f"not a name for an image: {name!r}, expected lower-case `repository:tag`")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    total = sum(layer.size for layer, _ in image.layers)
    try:
        with (progress or Silent()).step(f"Exporting to {path}", total=total, unit="bytes") as step:
            if kind == "dir":
                _write_directory(image, temporary, blobs, step.advance)
            else:
                with temporary.open("xb", buffering=CHUNK) as file:
                    write = _write_oci if kind == "oci-archive" else _write_docker
                    write(image, _TarWriter(file), blobs, name, step.advance)
                    file.flush()
                    os.fsync(file.fileno())
        _replace(temporary, path)
    finally:
        _remove(temporary)
    return path


def require_target(target: str, *, force: bool = False) -> tuple[str, Path]:
    """The kind of a target of `export_image`, and its path. Raises `InvalidInput`, `TargetExists`."""
    kind, colon, place = target.partition(":")
    if kind not in _KINDS or not colon or not place:
        raise InvalidInput(
            f"can't export to {target!r}, expected one of {', '.join(f'{each}:PATH' for each in _KINDS)}"
        )
    path = Path(place)
    if path.exists() and not force:
        raise TargetExists(path)
    return kind, path


class _TarWriter:
    """A tar without anything of this machine. A file's size may be known only after its content."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def directory(self, name: str) -> None:
        self._header(name, tarfile.DIRTYPE, 0o755, 0)

    def small(self, name: str, data: bytes) -> None:
        self.stream(name, [data])

    def stream(self, name: str, chunks: Iterable[bytes]) -> None:
        """Write a file; its header is written again when its size is known."""
        start = self._file.tell()
        self._header(name, tarfile.REGTYPE, 0o644, 0)
        size = 0
        for chunk in chunks:
            self._file.write(chunk)
            size += len(chunk)
        self._file.write(bytes(-size % 512))
        end = self._file.tell()
        self._file.seek(start)
        self._header(name, tarfile.REGTYPE, 0o644, size)
        self._file.seek(end)

    def close(self) -> None:
        self._file.write(bytes(1024))

    def _header(self, name: str, kind: bytes, mode: int, size: int) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.mode, info.size, info.mtime = kind, mode, size, MTIME
        # NOTE: GNU's form holds a size of 8 GiB and more in the same 512 bytes, so that it can be set later.
        self._file.write(info.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict"))


def _write_oci(image: Image, tar: _TarWriter, blobs: Blobs, name: str | None, advance: _Advance) -> None:
    """An OCI layout in a tar (image-layout.md)."""
    annotations = {"org.opencontainers.image.ref.name": name, CONTAINERD_NAME: local_name(name)} if name else {}
    entry = Descriptor(image.manifest.media_type, image.manifest.digest, image.manifest.size, annotations)
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [entry.to_dict()]}
    tar.small("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
    tar.small("index.json", encode(index))
    tar.directory("blobs")
    tar.directory("blobs/sha256")
    for digest in _blobs_of(image):
        tar.stream(f"blobs/sha256/{digest.hex}", _chunks(blobs.path(digest), advance))
    tar.close()


def _write_docker(image: Image, tar: _TarWriter, blobs: Blobs, name: str | None, advance: _Advance) -> None:
    """What `docker load` reads: plain layer tars, the configuration, and `manifest.json`."""
    names = []
    for layer, diff_id in image.layers:
        file_name = f"{diff_id.hex}.tar"
        if file_name not in names:
            tar.stream(file_name, _unpacked(blobs.path(layer.digest), str(layer.digest)))
        names.append(file_name)
        advance(layer.size)
    config = f"{image.config_digest.hex}.json"
    tar.small(config, blobs.read(image.config_digest))
    tagged = name if name is None or ":" in name.rsplit("/", 1)[-1] else f"{name}:latest"
    document = [{"Config": config, "RepoTags": [tagged] if tagged else [], "Layers": names}]
    tar.small("manifest.json", json.dumps(document, separators=(",", ":")).encode())
    tar.close()


def _write_directory(image: Image, path: Path, blobs: Blobs, advance: _Advance) -> None:
    """skopeo's `dir:` format: a version, the manifest, and blobs by the hex of their digests."""
    path.mkdir()
    (path / "version").write_bytes(b"Directory Transport Version: 1.1\n")
    (path / "manifest.json").write_bytes(blobs.read(image.manifest.digest))
    for digest in _blobs_of(image):
        if digest != image.manifest.digest:
            with (path / digest.hex).open("xb") as file:
                for chunk in _chunks(blobs.path(digest), advance):
                    file.write(chunk)


def _blobs_of(image: Image) -> list[Digest]:
    """Manifest, configuration and layers, each once, by name."""
    return sorted({image.manifest.digest, image.config_digest, *(layer.digest for layer, _ in image.layers)})


def _chunks(path: Path, advance: _Advance) -> Iterable[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            advance(len(chunk))
            yield chunk


def _unpacked(path: Path, what: str) -> Iterable[bytes]:
    with open_unpacked(path, limit=_UNPACKED, what=what) as stream:
        while chunk := stream.read(CHUNK):
            yield chunk


def _replace(temporary: Path, path: Path) -> None:
    """Put the finished thing in its place. A directory can't be replaced in one step: the old one is moved away first."""
    if path.is_dir():
        old = path.with_name(f".{path.name}.{secrets.token_hex(4)}.old")
        os.replace(path, old)
        os.replace(temporary, path)
        _remove(old)
    else:
        os.replace(temporary, path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
