"""Images from registries into the store: manifest and configuration at first, layers when something needs them."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from mlenv.build.validate import INDEX_TYPES, InvalidImage, parse_config, parse_descriptors, parse_json, parse_manifest
from mlenv.core.digest import Digest
from mlenv.core.image import Descriptor, Image
from mlenv.core.platform import Platform
from mlenv.core.progress import Progress, quantity
from mlenv.threads import in_threads

if TYPE_CHECKING:
    from mlenv.build.interface import Blobs
    from mlenv.distribution.client import Repository

_LAYERS_AT_ONCE: Final = 4
#: The largest configuration, in bytes.
_CONFIG_LIMIT: Final = 4 << 20


class _Remote:
    """A repository as `choose_manifest` reads images."""

    def __init__(self, repository: "Repository") -> None:
        self._repository = repository

    @property
    def path(self) -> object:
        return self._repository.name

    def blob(self, descriptor: Descriptor) -> bytes:
        return self._repository.manifest(str(descriptor.digest))[1]


def fetch_image(
    repository: "Repository", reference: str, blobs: "Blobs", *, platform: Platform | None, preferred: Platform
) -> Image:
    """
    An image's manifest and configuration, kept in the store. Its layers stay where they are.

    Args:
        platform: Which one of several; None takes the preferred one, or the only one there is.

    Raises:
        ImageNotFound: There is none for the platform.
        InvalidImage, DigestMismatch: It is damaged, or no container image.
        And what a `Repository` raises.
    """
    from mlenv.build.images import ImageLimits, check_image, choose_manifest

    descriptor, data = repository.manifest(reference)
    what = f"{repository.name}: manifest {descriptor.digest}"
    if descriptor.media_type in INDEX_TYPES:
        entries = parse_descriptors(parse_json(data, what), "manifests", what)
        wanted = platform or (preferred if len(entries) > 1 else None)
        chosen = choose_manifest(_Remote(repository), entries, wanted)
        descriptor, data = repository.manifest(str(chosen.digest))
        what = f"{repository.name}: manifest {descriptor.digest}"
    media_type, config, layers = parse_manifest(data, what)
    if config.size > _CONFIG_LIMIT:
        raise InvalidImage(what, f"has a configuration of {config.size} bytes, at most {_CONFIG_LIMIT} are read")
    config_data = b"".join(repository.blob(config))
    document, diff_ids = parse_config(config_data, len(layers), f"{repository.name}: configuration {config.digest}")
    check_image(document, len(layers), platform, ImageLimits(), repository.name)
    for each, content in ((config, config_data), (descriptor, data)):
        blobs.put([content], digest=each.digest, size=len(content), what=str(each.digest))
    found = Descriptor(media_type, descriptor.digest, len(data))
    return Image(found, document, config.digest, tuple(zip(layers, diff_ids, strict=True)))


def resolve(repository: "Repository", reference: str, *, platform: Platform) -> Digest:
    """
    The manifest that a tag means now for a platform. Nothing is kept.

    Raises:
        ImageNotFound, InvalidImage: There is none.
        And what a `Repository` raises.
    """
    from mlenv.build.images import choose_manifest

    found = repository.head(reference)
    if found is not None and found.media_type not in INDEX_TYPES:
        return found.digest
    descriptor, data = repository.manifest(reference)
    what = f"{repository.name}: index {descriptor.digest}"
    entries = parse_descriptors(parse_json(data, what), "manifests", what)
    return choose_manifest(_Remote(repository), entries, platform).digest


def fetch_layers(
    repository: "Repository", layers: Sequence[tuple[Descriptor, Digest]], blobs: "Blobs", *, progress: Progress
) -> None:
    """
    Have layers in the store, each checked against its digest, and against what it should unpack to.

    Raises:
        DigestMismatch, InvalidImage, InvalidArchive: One is not what it should be; it is not kept.
        And what a `Repository` raises.
    """
    from mlenv.build.images import ImageLimits, verify_diff_id

    limits = ImageLimits()
    missing = list({pair[0].digest: pair for pair in layers if not blobs.has(pair[0].digest)}.values())
    total = sum(layer.size for layer, _ in missing)

    title = f"Fetching {quantity(len(missing), 'layer')} of {repository.name}"
    with progress.step(title, total=total, unit="bytes") as step:

        def fetch(pair: tuple[Descriptor, Digest]) -> None:
            layer, diff_id = pair
            what = f"{repository.name}: layer {layer.digest}"
            if layer.size > limits.blob:
                raise InvalidImage(what, f"is {layer.size} bytes large, at most {limits.blob} are taken")

            def told() -> Iterator[bytes]:
                for chunk in repository.blob(layer):
                    step.advance(len(chunk))
                    yield chunk

            blobs.put(told(), digest=layer.digest, size=layer.size, what=what)
            try:
                verify_diff_id(blobs.path(layer.digest), diff_id, what, limits)
            except BaseException:
                blobs.remove(layer.digest)
                raise

        in_threads(fetch, missing, workers=_LAYERS_AT_ONCE, stop=repository.stop)
