"""
What an image builder made becomes an image of the store.

The builder's word counts for nothing: where it ran, a step of the build may have been, too. Every blob is checked, the
layers of the bases are those that the store has, and the others get their times and are compressed here, so that their
bytes depend neither on when nor on where they were built.
"""

import hashlib
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Final

from msgspec.structs import replace

from mlenv.build.compression import open_stream
from mlenv.build.image_sources import Archive, Directory, ImageSource, copy
from mlenv.build.installed import annotated, read_installed
from mlenv.build.interface import Blobs
from mlenv.build.unpacking import CHUNK, Limited, Readable, open_unpacked
from mlenv.build.validate import (
    INDEX_TYPES,
    InvalidImage,
    environment_of,
    image_platform,
    parse_config,
    parse_descriptors,
    parse_json,
    parse_manifest,
)
from mlenv.core.digest import Digest, DigestMismatch
from mlenv.core.image import CONFIG_TYPE, MANIFEST_TYPE, Descriptor, Image, encode
from mlenv.core.layer import MTIME, Compression
from mlenv.core.platform import Platform
from mlenv.core.progress import Progress
from mlenv.core.tar_archive import retimed

#: The most files, links and directories of one layer.
_MEMBERS: Final = 1 << 30
#: The most that one layer may unpack to, in bytes.
_UNPACKED: Final = 128 << 30
_LAYERS: Final = 127
_LOCAL: Final = re.compile(r"(?:localhost/)?(mlenv-base-\d+)(?::latest)?")


class NoResult(InvalidImage):
    """A builder that said it was done, and left no image."""


def take_result(
    out: Path,
    bases: Sequence[Image],
    names: Mapping[str, str],
    *,
    platform: Platform,
    variables: Sequence[tuple[str, str]],
    labels: Mapping[str, str],
    compression: Compression,
    blobs: Blobs,
    progress: Progress,
) -> Image:
    """
    Take an image into the store.

    Args:
        out: Where the builder left the layout `image`, or the archive `image.tar`.
        bases: The base images, whose layers are stored.
        names: What stands in the history for the names that the bases had in this build.
        variables: Environment variables of the spec, which win over the Dockerfile's.
        labels: Added to the image's labels, and to the manifest as annotations.

    Raises:
        InvalidImage, InvalidArchive, DigestMismatch: It is damaged, for another platform, or not what it says.
    """
    known = {diff_id: layer for base in bases for layer, diff_id in base.layers}
    with ExitStack() as stack:
        source = _open(out, stack)
        config_data, layers = _parts(source)
        document, diff_ids = parse_config(config_data, len(layers), "the built image's configuration")
        if (found := image_platform(document, "the built image")) != platform:
            raise InvalidImage("the built image", f"is for {found}, expected {platform}")
        if len(layers) > _LAYERS:
            raise InvalidImage("the built image", f"has {len(layers)} layers, at most {_LAYERS} can be mounted")
        stored = [
            (known[diff_id], diff_id)
            if diff_id in known
            else _keep(source, layer, diff_id, compression, blobs, progress)
            for layer, diff_id in zip(layers, diff_ids, strict=True)
        ]
    config = _config(document, names, variables, labels)
    config["rootfs"] = {"type": "layers", "diff_ids": [str(diff_id) for _, diff_id in stored]}
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": _put(encode(config), CONFIG_TYPE, blobs).to_dict(),
        "layers": [layer.to_dict() for layer, _ in stored],
        "annotations": dict(labels),
    }
    descriptor = Descriptor.from_dict(manifest["config"])
    image = Image(descriptor, config, descriptor.digest, tuple(stored))
    installed = read_installed(image, blobs, progress=progress)
    return replace(image, manifest=_put(encode(annotated(manifest, installed)), MANIFEST_TYPE, blobs))


def _parts(source: ImageSource) -> tuple[bytes, list[Descriptor]]:
    """Configuration and layers of the only image there."""
    what = "what was built"
    entries = parse_descriptors(parse_json(source.small("index.json"), what), "manifests", what)
    for _ in range(2):
        entries = [each for each in entries if (each.platform or {}).get("architecture") != "unknown"]
        if len(entries) != 1:
            raise NoResult(what, f"is {len(entries)} images, expected one")
        if entries[0].media_type not in INDEX_TYPES:
            break
        entries = parse_descriptors(parse_json(source.blob(entries[0]), what), "manifests", what)
    _, config, layers = parse_manifest(source.blob(entries[0]), what)
    return source.blob(config), layers


def _keep(
    source: ImageSource, layer: Descriptor, diff_id: Digest, compression: Compression, blobs: Blobs, progress: Progress
) -> tuple[Descriptor, Digest]:
    """Check a layer's content, set its times, and compress it anew: what is stored, and its own diff id."""
    what = f"layer {layer.digest} of what was built"
    with (
        progress.step("Storing what the Dockerfile added", total=layer.size, unit="bytes") as step,
        source.open(f"blobs/sha256/{layer.digest.hex}") as file,
        _as_file(file) as path,
        open_unpacked(path, limit=_UNPACKED, what=what) as stream,
        blobs.writer() as writer,
    ):
        out = open_stream(compression, writer)
        hashed = _Hashed(stream)
        plain = Limited(hashed, _UNPACKED, what)
        for data in retimed(plain, MTIME, what=what, members=_MEMBERS):
            out.write(data)
        while plain.read(CHUNK):
            # What stands behind a tar's end is a part of what was hashed.
            pass
        step.advance(layer.size)
        if hashed.digest != diff_id:
            raise DigestMismatch(what, expected=str(diff_id), got=str(hashed.digest))
        kept = out.close()
        digest, size = writer.commit()
    return Descriptor(compression.media_type, digest, size), kept


class _Hashed:
    """A stream whose digest is known when it is at its end."""

    def __init__(self, stream: Readable) -> None:
        self._stream, self._hash = stream, hashlib.sha256()

    def read(self, size: int, /) -> bytes:
        data = self._stream.read(size)
        self._hash.update(data)
        return data

    @property
    def digest(self) -> Digest:
        return Digest(self._hash.hexdigest())


@contextmanager
def _as_file(file: Any) -> Iterator[Path]:
    """A file by its descriptor; a part of an archive, copied into one of its own."""
    if hasattr(file, "fileno"):
        yield Path(f"/dev/fd/{file.fileno()}")
        return
    with NamedTemporaryFile(prefix="mlenv-") as plain:
        for chunk in copy(file):
            plain.write(chunk)
        plain.flush()
        yield Path(plain.name)


def _config(
    document: Mapping[str, Any],
    names: Mapping[str, str],
    variables: Sequence[tuple[str, str]],
    labels: Mapping[str, str],
) -> dict[str, Any]:
    inner = dict(document.get("config") or {})
    inner["Labels"] = {**(inner.get("Labels") or {}), **labels}
    if variables:
        inner["Env"] = [f"{name}={value}" for name, value in (environment_of(document) | dict(variables)).items()]

    def named(text: object) -> object:
        if not isinstance(text, str):
            return text
        return _LOCAL.sub(lambda match: names.get(match[1], match[0]), text)

    past = [{key: named(value) for key, value in entry.items()} for entry in document.get("history") or ()]
    return {**document, "config": inner, "history": past}


def _put(data: bytes, media_type: str, blobs: Blobs) -> Descriptor:
    digest = Digest.of(data)
    blobs.put([data], digest=digest, size=len(data), what=media_type)
    return Descriptor(media_type, digest, len(data))


def _open(out: Path, stack: ExitStack) -> ImageSource:
    """The builder's own files, and nothing that a link there leads to."""
    archive = out / "image.tar"
    if stat.S_ISREG(_mode(archive)):
        return Archive(archive, stack.enter_context(archive.open("rb")))
    if not stat.S_ISDIR(_mode(out / "image")):
        raise NoResult("what was built", "is not there")
    return _OwnDirectory(out / "image")


def _mode(path: Path) -> int:
    try:
        return path.lstat().st_mode
    except FileNotFoundError:
        return 0


class _OwnDirectory(Directory):
    """A layout in which no link is followed, whoever wrote it."""

    @contextmanager
    def open(self, name: str) -> Iterator[Readable]:
        *directories, last = name.split("/")
        held = []
        try:
            at = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            held.append(at)
            for each in directories:
                at = os.open(each, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
                held.append(at)
            descriptor = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=at)
        except OSError as error:
            raise InvalidImage("what was built", f"has no file {name}: {error.strerror}") from error
        finally:
            for number in held:
                os.close(number)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise InvalidImage("what was built", f"has {name}, which is no file")
            yield file
