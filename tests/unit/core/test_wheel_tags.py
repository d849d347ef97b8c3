"""What a wheel's file name says of glibc."""

import pytest

from mlenv.core.platform import Glibc
from mlenv.core.wheel_tags import glibc_needed


@pytest.mark.parametrize(
    ("filename", "expected"),
    [
        ("a-1-py3-none-any.whl", None),
        ("a-1-cp311-cp311-linux_x86_64.whl", None),
        ("a-1-cp311-cp311-macosx_11_0_arm64.whl", None),
        ("a-1-cp311-cp311-manylinux_2_28_x86_64.whl", Glibc(2, 28)),
        ("a-1-cp311-cp311-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl", Glibc(2, 27)),
        ("a-1-cp311-cp311-manylinux2014_x86_64.whl", Glibc(2, 17)),
        ("a-1-cp36-abi3-manylinux1_x86_64.manylinux_2_12_x86_64.whl", Glibc(2, 5)),
    ],
)
def test_the_lowest_level_counts(filename: str, expected: Glibc | None) -> None:
    assert glibc_needed(filename) == expected
