"""Fixtures for whole commands."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.server import Server, run_server
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


@pytest.fixture(scope="session")
def team_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that tests share, each with a workspace of its own."""
    with run_server(tmp_path_factory.mktemp("team-server")) as server:
        yield server
