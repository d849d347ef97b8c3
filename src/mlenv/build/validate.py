"""Manifests and configurations from elsewhere, checked before anything relies on them (image-spec 1.1)."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from mlenv.build.interface import Blobs
from mlenv.core.digest import Digest, InvalidDigest
from mlenv.core.image import CONFIG_TYPE, INDEX_TYPE, MANIFEST_TYPE, Descriptor, Image
from mlenv.core.platform import InvalidPlatform, Platform
from mlenv.errors import InvalidInput

#: The largest manifest or configuration, in bytes: what registries agree on (distribution-spec, "Pushing Manifests").
JSON_LIMIT: Final = 4 << 20
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
_DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
MANIFEST_TYPES: Final = frozenset({MANIFEST_TYPE, DOCKER_MANIFEST})
INDEX_TYPES: Final = frozenset({INDEX_TYPE, DOCKER_LIST})
_TAR: Final = "application/vnd.oci.image.layer.v1.tar"
#: The layer types that are understood, and OCI's name for each.
_LAYER_TYPES: Final = {
    _TAR: _TAR,
    f"{_TAR}+gzip": f"{_TAR}+gzip",
    f"{_TAR}+zstd": f"{_TAR}+zstd",
    "application/vnd.docker.image.rootfs.diff.tar": _TAR,
    "application/vnd.docker.image.rootfs.diff.tar.gzip": f"{_TAR}+gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd": f"{_TAR}+zstd",
}


class InvalidImage(InvalidInput):
    """An image that is damaged, or that is not one."""

    def __init__(self, what: str, problem: str, *, hint: str | None = None) -> None:
        super().__init__(f"{what}: {problem}")
        self.what, self.problem = what, problem
        self.hint = hint


def parse_json(data: bytes, what: str) -> dict[str, Any]:
    """A JSON object. Raises `InvalidImage` if it is none, or larger than 4 MiB."""
    if len(data) > JSON_LIMIT:
        raise InvalidImage(what, f"is {len(data)} bytes large, at most {JSON_LIMIT} are read")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidImage(what, f"is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise InvalidImage(what, f"is not a JSON object but {type(document).__name__}")
    return document


def parse_descriptor(document: object, what: str) -> Descriptor:
    """One descriptor. Raises `InvalidImage`."""
    try:
        if not isinstance(document, dict):
            raise TypeError("not an object")
        descriptor = Descriptor.from_dict(document)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidImage(what, f"has a descriptor that is none: {error!r}") from error
    except InvalidDigest as error:
        raise InvalidImage(what, f"has a descriptor that is none: {error}") from error
    if descriptor.size < 0 or not isinstance(descriptor.media_type, str):
        raise InvalidImage(what, f"has a descriptor of {descriptor.size} bytes, type {descriptor.media_type!r}")
    if descriptor.platform is not None and not isinstance(descriptor.platform, dict):
        raise InvalidImage(what, f"has a platform that is none: {descriptor.platform!r}")
    return descriptor


def parse_descriptors(document: Mapping[str, Any], key: str, what: str) -> list[Descriptor]:
    """The descriptors in a list. Raises `InvalidImage`."""
    found = document.get(key)
    if not isinstance(found, list):
        raise InvalidImage(what, f"has no list {key!r}")
    return [parse_descriptor(each, what) for each in found]


def parse_manifest(data: bytes, what: str) -> tuple[str, Descriptor, list[Descriptor]]:
    """
    An image manifest, of OCI or of Docker (schema 2).

    Returns:
        Its media type, its configuration, and its layers with OCI's media types.

    Raises:
        InvalidImage: It is something else, or has layers that can't be copied.
    """
    document = parse_json(data, what)
    if document.get("schemaVersion") != 2:
        found = document.get("schemaVersion")
        raise InvalidImage(
            what, f"has schemaVersion {found!r}, expected 2", hint="push the image again with a tool of today"
        )
    media_type = document.get("mediaType", MANIFEST_TYPE)
    if media_type not in MANIFEST_TYPES:
        raise InvalidImage(what, f"is {media_type!r}, expected an image manifest")
    config = parse_descriptor(document.get("config"), what)
    if config.media_type not in (CONFIG_TYPE, _DOCKER_CONFIG):
        raise InvalidImage(what, f"is not a container image: its configuration is {config.media_type!r}")
    layers = []
    for each in parse_descriptors(document, "layers", what):
        if each.media_type not in _LAYER_TYPES:
            hint = "its bytes may not be copied" if "foreign" in each.media_type else None
            raise InvalidImage(what, f"has a layer of type {each.media_type!r}, which can't be used", hint=hint)
        layers.append(Descriptor(_LAYER_TYPES[each.media_type], each.digest, each.size))
    return media_type, config, layers


def parse_config(data: bytes, layers: int, what: str) -> tuple[dict[str, Any], list[Digest]]:
    """A configuration and its diff ids, one for each layer. Raises `InvalidImage`."""
    config = parse_json(data, what)
    rootfs = config.get("rootfs")
    found = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(found, list):
        raise InvalidImage(what, "has no rootfs.diff_ids")
    try:
        diff_ids = [Digest.parse(each) for each in found if isinstance(each, str)]
    except InvalidDigest as error:
        raise InvalidImage(what, f"rootfs.diff_ids: {error}") from error
    if len(diff_ids) != layers or len(found) != layers:
        raise InvalidImage(what, f"has {len(found)} diff ids, expected {layers}, one for each layer")
    _check_shape(config, what)
    return config, diff_ids


def _check_shape(config: Mapping[str, Any], what: str) -> None:
    """What is read later must be of the type that the specification gives it."""
    inner = config.get("config") or {}
    if not isinstance(inner, dict):
        raise InvalidImage(what, "has a `config` that is not an object")
    env = inner.get("Env") or []
    if not isinstance(env, list) or not all(isinstance(each, str) for each in env):
        raise InvalidImage(what, "has a `config.Env` that is not a list of texts")
    if not isinstance(inner.get("Labels") or {}, dict):
        raise InvalidImage(what, "has a `config.Labels` that is not an object")
    history = config.get("history") or []
    if not isinstance(history, list) or not all(isinstance(each, dict) for each in history):
        raise InvalidImage(what, "has a `history` that is not a list of objects")


def load_image(manifest: Descriptor | Digest, blobs: Blobs) -> Image:
    """An image that is stored. Raises `NotFound`, `InvalidImage`, `DigestMismatch`."""
    digest = manifest if isinstance(manifest, Digest) else manifest.digest
    data = blobs.read(digest)
    media_type, config, layers = parse_manifest(data, f"manifest {digest}")
    document, diff_ids = parse_config(blobs.read(config.digest), len(layers), f"configuration {config.digest}")
    described = Descriptor(media_type, digest, len(data))
    return Image(described, document, config.digest, tuple(zip(layers, diff_ids, strict=True)))


def image_platform(config: Mapping[str, Any], what: str) -> Platform:
    """What a configuration says it runs on. Raises `InvalidImage` for what mlenv does not know."""
    try:
        return Platform.parse(f"{config.get('os')}/{config.get('architecture')}")
    except InvalidPlatform as error:
        raise InvalidImage(what, f"is for {config.get('os')}/{config.get('architecture')}") from error


def environment_of(config: Mapping[str, Any]) -> dict[str, str]:
    """The environment variables a configuration sets, in its order; the last of a name counts."""
    env: Sequence[str] = (config.get("config") or {}).get("Env") or ()
    return dict(each.split("=", 1) for each in env if "=" in each)
