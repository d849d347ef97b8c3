"""
Images from elsewhere, read into the store: OCI layouts and archives, and what `docker save` writes.

Nothing is unpacked to disk and nothing is believed: every blob is checked against its digest while it is copied, and
every layer's content against its diff id.
"""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import Final

from msgspec import Struct

from mlenv.build.image_sources import Archive, Directory, ImageSource, Manifests, copy, open_archive
from mlenv.build.interface import Blobs
from mlenv.build.unpacking import CHUNK, open_unpacked
from mlenv.build.validate import (
    INDEX_TYPES,
    InvalidImage,
    image_platform,
    load_image,
    parse_config,
    parse_descriptors,
    parse_json,
    parse_manifest,
)
from mlenv.core.digest import Digest, DigestMismatch
from mlenv.core.image import CONFIG_TYPE, MANIFEST_TYPE, Descriptor, Image, encode
from mlenv.core.platform import Platform
from mlenv.errors import InvalidInput, NotFound
from mlenv.threads import in_threads

__all__ = [
    "ImageLimits",
    "ImageNotFound",
    "check_image",
    "choose_manifest",
    "import_image",
    "load_image",
    "verify_diff_id",
]

_REF_NAMES: Final = ("org.opencontainers.image.ref.name", "io.containerd.image.name")
_KINDS: Final = ("oci", "oci-archive", "docker-archive")
_MAX_DEPTH: Final = 4
_TAR: Final = "application/vnd.oci.image.layer.v1.tar"
_LAYERS_AT_ONCE: Final = 4


class ImageNotFound(NotFound):
    """No such file, or no such image or platform in it. `available` lists what is there."""

    def __init__(self, message: str, available: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.available = available
        if available:
            self.hint = f"there is: {', '.join(available[:20])}"


class ImageLimits(Struct, frozen=True):
    """The most that an image may measure: a layer as stored and unpacked, in bytes, and how many layers."""

    blob: int = 64 << 30
    unpacked: int = 128 << 30
    layers: int = 127


def import_image(
    source: str, blobs: Blobs, *, platform: Platform | None = None, limits: ImageLimits | None = None
) -> Image:
    """
    Copy an image into the store.

    Args:
        source: `oci:DIR[:TAG]`, `oci-archive:FILE[:TAG]`, `docker-archive:FILE[:TAG]`, or a bare path of one of them.
        platform: Which one of several; None takes the only one there is.

    Returns:
        The image, under the digest that its manifest has there. One from a docker archive gets a manifest here, its
        layers kept as the plain tars they are.

    Raises:
        ImageNotFound: There is no such file, tag or platform.
        InvalidImage, InvalidArchive, DigestMismatch: It is damaged, or not what it says.
    """
    limits = limits or ImageLimits()
    kind, path, tag = _parse_source(source)
    with ExitStack() as stack:
        if path.is_dir():
            if kind not in (None, "oci"):
                raise InvalidInput(f"{path} is a directory, expected a file after `{kind}:`")
            return _from_layout(Directory(path), tag, blobs, platform, limits)
        if kind == "oci":
            raise InvalidInput(f"{path} is a file, expected a directory after `oci:`; try `oci-archive:`")
        archive = stack.enter_context(open_archive(path))
        if kind == "docker-archive" or (kind is None and not archive.has("index.json")):
            return _from_docker(archive, tag, blobs, platform, limits)
        return _from_layout(archive, tag, blobs, platform, limits)


def _parse_source(source: str) -> tuple[str | None, Path, str | None]:
    """The kind, the path and the tag. A path may have colons in it: the shortest one that exists is meant."""
    kind, colon, rest = source.partition(":")
    if kind not in _KINDS or not colon:
        kind, rest = "", source
    if not rest or "\0" in rest:
        raise InvalidInput(f"no path in {source!r}")
    for match in [*re.finditer(":", rest), None]:
        path = rest[: match.start()] if match else rest
        if path and Path(path).exists():
            return kind or None, Path(path), rest[match.end() :] or None if match else None
    raise ImageNotFound(f"no such file or directory: {rest}")


def _from_layout(
    source: ImageSource, tag: str | None, blobs: Blobs, platform: Platform | None, limits: ImageLimits
) -> Image:
    """Copy from an OCI layout, in a directory or a tar (image-layout.md)."""
    what = f"{source.path}: index.json"
    entries = parse_descriptors(parse_json(source.small("index.json"), what), "manifests", what)
    if tag is not None:
        named = [each for each in entries if tag in _names(each)]
        if not named:
            raise ImageNotFound(f"no image {tag!r} in {source.path}", tuple(sorted(set(_all_names(entries)))))
        entries = named
    elif len({name for each in entries for name in _names(each)[:1]}) > 1:
        message = f"{source.path} holds several images; name one after the path, with a colon"
        raise ImageNotFound(message, tuple(sorted(set(_all_names(entries)))))
    descriptor = choose_manifest(source, entries, platform, depth=0)
    data = source.blob(descriptor)
    _, config, layers = parse_manifest(data, f"{source.path}: manifest {descriptor.digest}")
    config_data = source.blob(config)
    document, diff_ids = parse_config(config_data, len(layers), f"{source.path}: configuration {config.digest}")
    check_image(document, len(layers), platform, limits, source.path)

    def store(pair: tuple[Descriptor, Digest]) -> None:
        layer, diff_id = pair
        what = f"{source.path}: layer {layer.digest}"
        if layer.size > limits.blob:
            raise InvalidImage(what, f"is {layer.size} bytes large, at most {limits.blob} are taken")
        name = f"blobs/sha256/{layer.digest.hex}"
        with source.open(name) as file:
            blobs.put(copy(file), digest=layer.digest, size=layer.size, what=what)
        verify_diff_id(blobs.path(layer.digest), diff_id, what, limits)

    in_threads(store, list(zip(layers, diff_ids, strict=True)), workers=_LAYERS_AT_ONCE)
    for each, content in ((config, config_data), (descriptor, data)):
        blobs.put([content], digest=each.digest, size=len(content), what=str(each.digest))
    return load_image(descriptor.digest, blobs)


def choose_manifest(
    source: Manifests, entries: list[Descriptor], platform: Platform | None, *, depth: int = 0
) -> Descriptor:
    """The one manifest that is meant, through indexes of indexes. Raises `ImageNotFound`, `InvalidImage`."""
    if depth == _MAX_DEPTH:
        raise InvalidImage(str(source.path), "has an index in an index in an index, and so on")
    candidates = [each for each in entries if not _is_attachment(each)]
    if platform and len(candidates) > 1:
        candidates = [each for each in candidates if each.platform is None or _matches(each, platform)]
    if not candidates:
        message = f"no image for {platform} in {source.path}" if platform else f"no image in {source.path}"
        raise ImageNotFound(message, _platforms(entries))
    if len({each.digest for each in candidates}) > 1:
        message = f"{source.path} holds images for several platforms; say which is meant"
        raise ImageNotFound(message, _platforms(candidates))
    chosen = candidates[0]
    if chosen.media_type not in INDEX_TYPES:
        if platform and chosen.platform and not _matches(chosen, platform):
            raise ImageNotFound(f"no image for {platform} in {source.path}", _platforms(entries))
        return chosen
    what = f"{source.path}: index {chosen.digest}"
    inner = parse_descriptors(parse_json(source.blob(chosen), what), "manifests", what)
    return choose_manifest(source, inner, platform, depth=depth + 1)


def _from_docker(
    source: Archive, tag: str | None, blobs: Blobs, platform: Platform | None, limits: ImageLimits
) -> Image:
    """Copy from what `docker save` writes: `manifest.json`, a configuration, and a tar for each layer."""
    what = f"{source.path}: manifest.json"
    entry = _docker_entry(source, tag, what)
    config_data = source.small(entry.config)
    document, diff_ids = parse_config(config_data, len(entry.layers), f"{source.path}: {entry.config}")
    check_image(document, len(diff_ids), platform, limits, source.path)

    def store(pair: tuple[str, Digest]) -> Descriptor:
        name, diff_id = pair
        return _store_docker_layer(source, name, diff_id, blobs, limits)

    layers = in_threads(store, list(zip(entry.layers, diff_ids, strict=True)), workers=_LAYERS_AT_ONCE)
    config = Descriptor(CONFIG_TYPE, Digest.of(config_data), len(config_data))
    manifest = encode(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": config.to_dict(),
            "layers": [each.to_dict() for each in layers],
        }
    )
    for content in (config_data, manifest):
        blobs.put([content], digest=Digest.of(content), size=len(content), what=str(source.path))
    return load_image(Digest.of(manifest), blobs)


class _DockerEntry(Struct, frozen=True):
    config: str
    layers: list[str]
    tags: list[str]


def _docker_entry(source: Archive, tag: str | None, what: str) -> _DockerEntry:
    # The document is a list, and `parse_json` reads objects.
    document = parse_json(b'{"images":' + source.small("manifest.json") + b"}", what)["images"]
    entries = []
    for each in document if isinstance(document, list) else [None]:
        each = each if isinstance(each, dict) else {}
        config, layers = each.get("Config"), each.get("Layers")
        if not isinstance(config, str) or not isinstance(layers, list) or not all(isinstance(n, str) for n in layers):
            raise InvalidImage(what, "has no list of images with `Config` and `Layers`")
        tags = [str(name) for name in each.get("RepoTags") or ()]
        entries.append(_DockerEntry(config, layers, tags))
    everything = tuple(name for each in entries for name in each.tags)
    if tag is not None:
        wanted = (tag, f"{tag}:latest", f"docker.io/library/{tag}", f"localhost/{tag}")
        entries = [each for each in entries if any(name in wanted for name in each.tags)]
        if not entries:
            raise ImageNotFound(f"no image {tag!r} in {source.path}", everything)
    if len(entries) != 1:
        raise ImageNotFound(f"{source.path} holds {len(entries)} images; name one after the path", everything)
    return entries[0]


def _store_docker_layer(source: Archive, name: str, diff_id: Digest, blobs: Blobs, limits: ImageLimits) -> Descriptor:
    """Keep a layer as it stands there: a plain tar as a rule, whose digest is its diff id."""
    what = f"{source.path}: layer {name}"
    with source.open(name) as file, blobs.writer() as writer:
        start, total = b"", 0
        for chunk in copy(file):
            start = start or chunk[:4]
            total += len(chunk)
            if total > limits.blob:
                raise InvalidImage(what, f"is more than {limits.blob} bytes large")
            writer.write(chunk)
        compression = "+gzip" if start.startswith(b"\x1f\x8b") else "+zstd" if start == b"\x28\xb5\x2f\xfd" else ""
        if compression:
            digest, size = writer.commit()
        else:
            try:
                digest, size = writer.commit(expect=diff_id)
            except DigestMismatch as error:
                raise DigestMismatch(what, expected=error.expected, got=error.got) from error
    if compression:
        verify_diff_id(blobs.path(digest), diff_id, what, limits)
    return Descriptor(_TAR + compression, digest, size)


def verify_diff_id(path: Path, diff_id: Digest, what: str, limits: ImageLimits) -> None:
    """Check what a layer's blob unpacks to. Raises `DigestMismatch`, `InvalidArchive`."""
    got = sha256()
    with open_unpacked(path, limit=limits.unpacked, what=what) as stream:
        while data := stream.read(CHUNK):
            got.update(data)
    if got.hexdigest() != diff_id.hex:
        raise DigestMismatch(f"{what}, unpacked", expected=str(diff_id), got=f"sha256:{got.hexdigest()}")


def check_image(
    config: dict[str, object], layers: int, platform: Platform | None, limits: ImageLimits, path: object
) -> None:
    """Check a configuration. Raises `InvalidImage`, or `ImageNotFound` if it is for another platform."""
    if layers > limits.layers:
        raise InvalidImage(str(path), f"has {layers} layers, at most {limits.layers} are taken")
    found = image_platform(config, str(path))
    if platform and found != platform:
        raise ImageNotFound(f"no image for {platform} in {path}", (str(found),))


def _names(descriptor: Descriptor) -> list[str]:
    return [descriptor.annotations[key] for key in _REF_NAMES if key in descriptor.annotations]


def _all_names(descriptors: list[Descriptor]) -> Iterator[str]:
    for each in descriptors:
        yield from _names(each)


def _is_attachment(descriptor: Descriptor) -> bool:
    """What BuildKit puts beside images: attestations, for a platform that does not exist."""
    return (descriptor.platform or {}).get("architecture") == "unknown"


def _matches(descriptor: Descriptor, platform: Platform) -> bool:
    found = descriptor.platform or {}
    return (found.get("os"), found.get("architecture")) == (platform.os, platform.architecture)


def _platforms(descriptors: list[Descriptor]) -> tuple[str, ...]:
    found = {f"{each.platform.get('os')}/{each.platform.get('architecture')}" for each in descriptors if each.platform}
    return tuple(sorted(found - {"unknown/unknown"}))
