"""Which wheels run on a target."""

import pytest

from mlenv.core.platform import Glibc, Platform, Target
from mlenv.core.wheel_tags import best_wheel


def _target(platform: str, python: str = "3.11", glibc: str | None = None) -> Target:
    return Target(Platform.parse(platform), python, Glibc.parse(glibc) if glibc else None)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (_target("linux/amd64", "3.11", "2.28"), "a-1-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl"),
        (_target("linux/amd64", "3.11", "2.12"), "a-1-cp39-abi3-manylinux_2_5_x86_64.whl"),
        (_target("linux/amd64", "3.12", "2.28"), "a-1-cp39-abi3-manylinux_2_5_x86_64.whl"),
        (_target("linux/amd64", "3.7.16", "2.28"), "a-1-cp37-cp37m-manylinux1_x86_64.whl"),
        (_target("linux/amd64", "3.8", "2.28"), "a-1-py3-none-any.whl"),
        (_target("darwin/arm64", "3.11"), "a-1-cp311-cp311-macosx_11_0_arm64.whl"),
        (_target("windows/amd64", "3.11"), "a-1-cp311-cp311-win_amd64.whl"),
    ],
)
def test_the_best_wheel(target: Target, expected: str) -> None:
    offered = [
        "a-1-py3-none-any.whl",
        "a-1-cp39-abi3-manylinux_2_5_x86_64.whl",
        "a-1-cp37-cp37m-manylinux1_x86_64.whl",
        "a-1-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
        "a-1-cp311-cp311-manylinux_2_31_x86_64.whl",
        "a-1-cp311-cp311-macosx_11_0_arm64.whl",
        "a-1-cp311-cp311-win_amd64.whl",
        "a-1.tar.gz",
    ]
    assert best_wheel(offered, target) == expected
    assert best_wheel(reversed(offered), target) == expected


def test_of_two_builds_the_later() -> None:
    assert best_wheel(["a-1-1-py3-none-any.whl", "a-1-2-py3-none-any.whl"], _target("linux/amd64")) == (
        "a-1-2-py3-none-any.whl"
    )


def test_none_that_runs_there() -> None:
    assert best_wheel(["a-1-cp310-cp310-win32.whl", "nonsense.whl"], _target("linux/amd64")) is None
