"""A lock with conda packages is none of a spec that asks for no conda packages."""

import pytest

from mlenv.core.conda_package import CondaPackage
from mlenv.core.digest import Digest
from mlenv.core.lock import Artifact, Lock
from mlenv.core.platform import Glibc, Platform, Target
from mlenv.core.spec import CondaFile, Requirement, Spec
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


def test_a_conda_file_may_have_conda_packages() -> None:
    assert why_not(LOCK, Spec(conda=CondaFile("{}", "", packages=NUMPY, needs_conda=NUMPY)), LINUX) is None
