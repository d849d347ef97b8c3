"""How uv is told of a target."""

import pytest

from mlenv.core.platform import Glibc, Platform, Target
from mlenv.resolve.uv_input import uv_platform


def _target(platform: str, python: str = "3.11", glibc: str | None = None) -> Target:
    return Target(Platform.parse(platform), python, Glibc.parse(glibc) if glibc else None)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (_target("linux/amd64", glibc="2.36"), "x86_64-manylinux_2_36"),
        (_target("linux/amd64", glibc="2.41"), "x86_64-manylinux_2_40"),
        (_target("linux/amd64", glibc="2.30"), "x86_64-manylinux_2_28"),
        (_target("linux/arm64", glibc="2.28"), "aarch64-manylinux_2_28"),
        (_target("linux/amd64", glibc="2.17"), "x86_64-manylinux_2_17"),
        (_target("linux/amd64"), "x86_64-manylinux_2_28"),
        (_target("darwin/arm64"), "aarch64-apple-darwin"),
        (_target("windows/amd64"), "x86_64-pc-windows-msvc"),
    ],
)
def test_uv_is_asked_for_the_highest_level_that_is_not_above(target: Target, expected: str) -> None:
    assert uv_platform(target) == expected
