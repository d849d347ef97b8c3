"""How conda's packages stand on a machine, as `mlenv doctor` says it."""

import socket
import time

import pytest
from support.conda_channel import CondaChannels, serve_channels
from support.conda_packages import make_package

from mlenv.resolve.conda_failures import ChannelRefused
from mlenv.resolve.conda_probe import probe_conda
from mlenv.resolve.condarc import CondaSettings


@pytest.mark.parametrize("compressed", [True, False])
def test_the_first_channel_answers(compressed: bool) -> None:
    with serve_channels(CondaChannels(compressed=compressed)) as served:
        served.add("forge", make_package("num"))
        state = probe_conda(CondaSettings(channel_alias=served.url, channels=("forge", "other")), {})
        assert [each.name for each in state.channels] == ["forge", "other"]
        assert (state.answers, state.failure) == (True, None)
        assert served.asked("other") == []
    assert state.solver.startswith("py-rattler ")


def test_a_channel_that_says_nothing_is_given_up_soon() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        start = time.monotonic()
        state = probe_conda(CondaSettings(channel_alias=address, channels=("forge",)), {}, timeout=0.5)
        assert time.monotonic() - start < 15
    assert state.answers is False
    assert str(state.failure) == f"{address}/forge/noarch/repodata.json.zst: nothing came within the timeout"


def test_what_is_missing_or_refused_is_told_without_secrets() -> None:
    with serve_channels() as served:
        settings = CondaSettings(channel_alias=served.url, channels=("nowhere",))
        assert "is not there (404)" in str(probe_conda(settings, {}).failure)
        served.user = "user"
        address = served.url.replace("//", "//user:geheim@")
        state = probe_conda(CondaSettings(channel_alias=address, channels=("forge",)), {})
        assert isinstance(state.failure, ChannelRefused)
    assert "geheim" not in repr(state)


@pytest.mark.parametrize("settings", [CondaSettings(channels=()), CondaSettings(channels=("x",), offline=True)])
def test_what_is_not_to_be_asked_is_not_asked(settings: CondaSettings) -> None:
    state = probe_conda(settings, {})
    assert (state.answers, state.failure) == (None, None)
