"""Fixtures for whole commands."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.world import World, make_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world that the tests of one file share; each uses environments of its own names."""
    with make_world(tmp_path_factory.mktemp("world")) as made:
        yield made


@pytest.fixture
def fresh_world(tmp_path: Path) -> Iterator[World]:
    """A world for one test alone."""
    with make_world(tmp_path) as made:
        yield made
