"""Which locks with conda packages belong to a spec: what its conda file asks for is there, and anybody can fetch it."""

import pytest
from msgspec.structs import replace

from mlenv.core.conda_package import CondaPackage
from mlenv.core.digest import Digest
from mlenv.core.lock import Artifact, Lock, LockedPackage
from mlenv.core.platform import Glibc, Platform, Target
from mlenv.core.spec import CondaFile, Requirement, Spec, canonical_json
from mlenv.service.lock_files import why_not

LINUX = Platform("linux", "amd64")
NUMPY = (Requirement("numpy"),)
ARTIFACT = Artifact("numpy-1.0-0.conda", 1, Digest.of(b""), "https://example.org/c/linux-64/numpy-1.0-0.conda")
PACKAGE = CondaPackage("numpy", "1.0", "0", 0, "linux-64", "https://example.org/c", ARTIFACT)
LOCK = Lock(Target(LINUX, "3.11.4", Glibc(2, 28)), (), "rattler 0.28.0", conda=(PACKAGE,))


@pytest.mark.parametrize(
    "spec",
    [
        Spec(requirements=()),
        Spec(python="3.11"),
        Spec(conda=CondaFile("{}", "", packages=(Requirement("pip"),))),
        Spec(conda=CondaFile("{}", "", packages=NUMPY, needs_conda=NUMPY), resolver="pypi"),
    ],
)
def test_it_is_refused(spec: Spec) -> None:
    assert why_not(LOCK, spec, LINUX) == "it has conda packages, and the spec asks for none"


def _conda_file(*specs: str, python: str | None = None, pip: tuple[str, ...] = ()) -> Spec:
    """A spec of a conda file, as it is read from one."""
    dependencies: list[object] = [*([f"python={python}"] if python else []), *specs]
    if pip:
        dependencies.append({"pip": list(pip)})
    packages = tuple(map(Requirement, specs))
    document = canonical_json({"dependencies": dependencies})
    lines = tuple(map(Requirement, pip))
    return Spec(conda=CondaFile(document, "", python=python, packages=packages, needs_conda=packages, pip=lines))


def _of(*packages: tuple[str, str, str | None], python: str = "") -> Lock:
    """A lock of packages by name, version and the line that asked for them."""
    found = []
    for name, version, requested in packages:
        filename = f"{name}-{version}-0.conda"
        artifact = Artifact(filename, 1, Digest.of(b""), f"https://example.org/c/linux-64/{filename}")
        found.append(replace(PACKAGE, name=name, version=version, artifact=artifact, requested=requested))
    return replace(LOCK, target=replace(LOCK.target, python=python), conda=tuple(found))


NUMPY_LOCK = _of(("numpy", "1.0", "numpy=1"), ("python", "3.11.4", "python 3.11.4"), python="3.11.4")
WHEEL = LockedPackage(
    "six",
    "1.0",
    Artifact("six-1.0-py3-none-any.whl", 1, Digest.of(b""), "https://example.org/six-1.0-py3-none-any.whl"),
)


def test_what_the_conda_file_asks_for_is_there() -> None:
    assert why_not(NUMPY_LOCK, _conda_file("numpy=1", python="3.11"), LINUX) is None
    assert why_not(NUMPY_LOCK, replace(_conda_file("numpy=1", python="3.11"), python="3.11.4"), LINUX) is None
    with_pip = _conda_file("numpy=1", python="3.11", pip=("six", "from-conda"))
    assert why_not(replace(NUMPY_LOCK, packages=(WHEEL,)), with_pip, LINUX) is None


def test_packages_without_a_python() -> None:
    assert why_not(_of(("zlib", "1.0", "zlib")), _conda_file("zlib"), LINUX) is None


@pytest.mark.parametrize(
    ("lock", "spec", "why"),
    [
        (replace(LOCK, conda=()), _conda_file("numpy"), "it has no conda packages, and the spec asks for numpy"),
        (NUMPY_LOCK, _conda_file("numpy=2", python="3.11"), "it has no conda package for numpy=2, which the spec asks"),
        (
            NUMPY_LOCK,
            _conda_file("numpy=1", "xz", python="3.11"),
            "it has no conda package for xz, which the spec asks",
        ),
        (
            _of(("numpy", "1.0", "numpy"), python="3.11.4"),
            _conda_file("numpy", python="3.11"),
            "it has no conda package for python=3.11, which the spec asks for",
        ),
        (
            _of(("numpy", "1.0", None)),
            _conda_file("numpy"),
            "it has no conda package for numpy, which the spec asks for",
        ),
        (
            _of(("numpy", "1.0", "numpy"), ("python", "3.11.4", None), python="3.11.5"),
            _conda_file("numpy"),
            "it is for Python 3.11.5, and has conda's python 3.11.4",
        ),
        (
            _of(("numpy", "1.0", "numpy"), ("python", "3.11.4", "python=3.12"), python="3.11.4"),
            _conda_file("numpy", python="3.12"),
            "it is for Python 3.11.4, the spec asks for 3.12",
        ),
        (
            replace(_of(("zlib", "1.0", "zlib")), packages=(WHEEL,)),
            _conda_file("zlib", pip=("six",)),
            "it is for no Python, the spec asks for 3",
        ),
        (
            _of(("zlib", "1.0", "zlib")),
            replace(_conda_file("zlib"), python="3.11"),
            "it is for no Python, the spec asks for 3.11",
        ),
        (
            replace(
                LOCK, conda=(replace(PACKAGE, artifact=replace(ARTIFACT, url="file:///c/linux-64/numpy-1.0-0.conda")),)
            ),
            _conda_file("numpy"),
            "numpy: its address is not one that everybody can fetch it from",
        ),
    ],
)
def test_a_lock_of_something_else_is_refused(lock: Lock, spec: Spec, why: str) -> None:
    found = why_not(lock, spec, LINUX)
    assert found is not None
    assert found.startswith(why)
