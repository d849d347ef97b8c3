"""Conda match specs that have a pip counterpart."""

import pytest

from mlenv.core.conda_spec import to_pip_requirement
from mlenv.core.spec import Origin, Requirement


@pytest.mark.parametrize(
    ("conda", "pip"),
    [
        ("pip", "pip"),
        ("pip=20.2", "pip==20.2.*"),
        ("pip=20.2.*", "pip==20.2.*"),
        ("pip==20.2.4", "pip==20.2.4"),
        ("pip=20.2=py37_0", "pip==20.2.*"),
        ("pip>=20,<22", "pip>=20,<22"),
        ("pip <= 24.0", "pip<=24.0"),
        ("conda-forge::setuptools=67.6", "setuptools==67.6.*"),
    ],
)
def test_versions_keep_their_meaning(conda: str, pip: str) -> None:
    origin = Origin("conda.yml", 3)
    result = to_pip_requirement(Requirement(conda, origin))
    assert (result.text, result.origin) == (pip, origin)
