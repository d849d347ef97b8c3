"""Configuration and manifest of an image made here, stored so that the same content has the same digest."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from mlenv.build.interface import Blobs
from mlenv.core.digest import Digest
from mlenv.core.image import CONFIG_TYPE, MANIFEST_TYPE, Descriptor, Image, encode
from mlenv.core.layer import Layer

#: The one time of everything that is made here: `core.layer.MTIME`, as RFC 3339.
CREATED: Final = "2020-01-01T00:00:00Z"


def history(created_by: str) -> dict[str, str]:
    """One entry of a configuration's history (image-spec, config.md)."""
    return {"created": CREATED, "created_by": created_by}


def store_image(
    config: Mapping[str, Any],
    added: Sequence[Layer],
    blobs: Blobs,
    *,
    below: Sequence[tuple[Descriptor, Digest]] = (),
    annotations: Mapping[str, str] | None = None,
) -> Image:
    """
    Write configuration and manifest.

    Args:
        config: The configuration, but for `created`, `rootfs` and the history of the layers that are added.
        added: The layers on top of `below`, the lowest first. Their blobs are stored already.
        below: The base's layers, with their diff ids.
    """
    mine = tuple((Descriptor(each.media_type, each.digest, each.size), each.diff_id) for each in added)
    layers = (*below, *mine)
    past = list(config.get("history") or ())
    if sum(not each.get("empty_layer") for each in past) != len(below):
        past = [history("base") for _ in below]
    document = {
        **config,
        "created": CREATED,
        "history": past + [history("mlenv") for _ in mine],
        "rootfs": {"type": "layers", "diff_ids": [str(diff_id) for _, diff_id in layers]},
    }
    config_descriptor = _put(encode(document), CONFIG_TYPE, blobs)
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": config_descriptor.to_dict(),
        "layers": [descriptor.to_dict() for descriptor, _ in layers],
    }
    if annotations:
        manifest["annotations"] = dict(annotations)
    return Image(_put(encode(manifest), MANIFEST_TYPE, blobs), document, config_descriptor.digest, layers)


def _put(data: bytes, media_type: str, blobs: Blobs) -> Descriptor:
    digest = Digest.of(data)
    blobs.put([data], digest=digest, size=len(data), what=media_type)
    return Descriptor(media_type, digest, len(data))
