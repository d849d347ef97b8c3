"""Layers that nobody remembers, made several at a time, as their packages come."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from mlenv.build.interface import Incoming, Incomplete, LayerCache
from mlenv.core.digest import Digest
from mlenv.core.layer import Layer, Sized
from mlenv.core.progress import Step
from mlenv.faults import reach
from mlenv.threads import in_threads

#: How many layers are written at once, beside the processes that compile.
_WRITERS: Final = 2


def make_missing(
    make: Callable[[Digest], Layer],
    groups: Mapping[Digest, Sequence[Sized]],
    *,
    incoming: Incoming,
    cache: LayerCache,
    step: Step,
    begin: Callable[[Digest], None] = lambda _: None,
) -> dict[Digest, Layer]:
    """
    Make a layer of each group of packages, and remember it. Of those whose packages are there, the largest is the first, so
    that no long one is left alone at the end.

    Args:
        make: Makes the layer of a key, in any thread.
        groups: The packages of each key.
        begin: Told of each key once its packages are there, before its layer is made.

    Raises:
        Incomplete: Not all packages came.
        And what `make` raises; then nobody wants more of the packages.
    """
    sizes = {key: sum(each.artifact.size for each in group) for key, group in groups.items()}
    groups = {key: groups[key] for key in sorted(groups, key=lambda key: -sizes[key])}

    def ready() -> Iterator[Digest]:
        for key in incoming.whole(groups):
            begin(key)
            yield key

    def one(key: Digest) -> tuple[Digest, Layer]:
        try:
            layer = make(key)
        except BaseException:
            incoming.stop()
            raise
        cache.put(key, layer)
        reach("layer.cached")
        step.advance(sizes[key])
        return key, layer

    workers = min(_WRITERS, len(groups))
    made = dict(in_threads(one, ready(), workers=workers, order=lambda key: -sizes[key]))
    if len(made) < len(groups):
        raise Incomplete
    return made
