"""Which Python a spec asks for."""

import pytest

from mlenv.core.python_version import admits, choose, without_offer


@pytest.mark.parametrize(
    ("wanted", "version", "expected"),
    [
        (None, "3.11.2", True),
        ("3.11", "3.11.2", True),
        ("3.7.9", "3.7.17", True),
        ("3.1", "3.11.2", False),
        (">=3.8,<3.11", "3.10.13", True),
        (">=3.8,<3.11", "3.11.2", False),
        ("~=3.10.2", "3.10.1", False),
        ("three", "3.11.2", False),
    ],
)
def test_a_wish_is_met_per_minor_version_or_by_its_specifiers(wanted: str | None, version: str, expected: bool) -> None:
    assert admits(wanted, version) is expected


def test_the_first_offer_that_meets_the_wish_is_taken() -> None:
    assert choose(">=3.11", ["3.10.4", "3.12.1", "3.11.2"]) == "3.12.1"
    assert choose("3.9", ["3.10.4"]) is None


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [("3.7.9", "3.7.9"), ("3.7", "3.7.17"), (">=3.8,<3.11", "3.10.19"), (">4", None), (None, None)],
)
def test_without_an_offer_a_late_patch_release_is_locked_for(wanted: str | None, expected: str | None) -> None:
    assert without_offer(wanted) == expected
