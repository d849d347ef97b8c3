import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from support.blobs import DirectoryBlobs
from support.wheels import make_wheel

from mlenv.build.layers import build_layer
from mlenv.core.layer import Compression, Layer, LayerPlan, LayerRecipe, plan_layers
from mlenv.core.lock import LockedPackage

_PARTS = st.text("abcü-_.0", min_size=1, max_size=12).filter(lambda part: part.strip("."))
_PATHS = st.lists(_PARTS, min_size=1, max_size=4).map(lambda parts: "pkg/" + "/".join(f"{each}x" for each in parts))
_FILES = st.dictionaries(_PATHS, st.binary(max_size=3000), min_size=1, max_size=8).filter(
    lambda files: not any(other.startswith(path + "/") for path in files for other in files)
)


def _layer(files: dict[str, bytes], compression: Compression) -> Layer:
    with tempfile.TemporaryDirectory() as directory:
        blobs = DirectoryBlobs(Path(directory) / "blobs")
        package = blobs.add_wheel(make_wheel(Path(directory), "pkg", files=files))
        return build_layer(LayerPlan("pkg", (package,)), LayerRecipe("3.11", None, compression), blobs=blobs)


@settings(max_examples=25, deadline=None)
@given(files=_FILES, data=st.data(), compression=st.sampled_from(list(Compression)))
def test_the_order_of_a_wheels_members_does_not_matter(
    files: dict[str, bytes], data: st.DataObject, compression: Compression
) -> None:
    shuffled = dict(data.draw(st.permutations(list(files.items()))))
    assert _layer(files, compression) == _layer(shuffled, compression)


@settings(max_examples=25, deadline=None)
@given(names=st.lists(st.text("abcdef", min_size=1, max_size=6), min_size=1, max_size=20, unique=True), data=st.data())
def test_plans_do_not_depend_on_the_order_of_packages(names: list[str], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as directory:
        blobs = DirectoryBlobs(Path(directory))
        wheel = blobs.add_wheel(make_wheel(Path(directory) / "wheels", "pkg"))
    packages = [LockedPackage(name, "1.0", wheel.artifact) for name in names]
    plans = plan_layers(packages)
    assert plans == plan_layers(data.draw(st.permutations(packages)))
    assert sorted(each.name for plan in plans for each in plan.packages) == sorted(names)
    without = plan_layers(packages[1:])
    changed = {plan.title for plan in plans} ^ {plan.title for plan in without}
    changed |= {a.title for a in plans for b in without if a.title == b.title and a != b}
    assert len(changed) == 1
