"""What the other tests rely on: a store of their own, closed sockets, and a podman that works."""

import os
import socket
import subprocess
from pathlib import Path

import platformdirs
import pytest
import pytest_socket


def test_no_test_uses_the_store_of_the_user(session_home: Path) -> None:
    assert os.environ["MLENV_HOME"] == str(session_home)
    assert not session_home.is_relative_to(platformdirs.user_data_path())


def test_a_test_can_have_a_store_of_its_own(session_home: Path, mlenv_home: Path) -> None:
    assert os.environ["MLENV_HOME"] == str(mlenv_home) != str(session_home)


def test_sockets_reach_this_machine() -> None:
    with socket.socket() as server, socket.socket() as client:
        server.bind(("127.0.0.1", 0))
        server.listen()
        client.connect(server.getsockname())
        assert client.getpeername() == server.getsockname()


@pytest.mark.filterwarnings("ignore:A test tried to use socket")
def test_sockets_do_not_reach_further() -> None:
    # 192.0.2.0/24 is set aside for documentation (RFC 5737): nothing answers there.
    with socket.socket() as client, pytest.raises(pytest_socket.SocketConnectBlockedError):
        client.connect(("192.0.2.1", 80))


@pytest.mark.container
def test_podman_starts_the_base_image(debian_base: Path) -> None:
    command = ["podman", "run", "--rm", f"oci-archive:{debian_base}", "python3", "--version"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.stdout.startswith("Python 3.11."), ended.stderr
