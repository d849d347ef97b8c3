"""What a server's machines refuse of conda channels: which they ask, where they fetch packages, and what they tell."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.conda_channel import CondaChannels, serve_channels
from support.conda_packages import make_package

from mlenv.core.digest import Digest
from mlenv.core.platform import Glibc, Platform, Target
from mlenv.core.progress import Silent
from mlenv.core.site_policy import AddressNotListed, SitePolicy
from mlenv.core.spec import Requirement
from mlenv.errors import MlenvError
from mlenv.resolve.conda import CondaResolver
from mlenv.resolve.conda_fetch import ChannelFetcher
from mlenv.resolve.conda_request import CondaRequest
from mlenv.resolve.condarc import CondaSettings
from mlenv.resolve.guard import Guard

_TARGET = Target(Platform("linux", "amd64"), "", Glibc(2, 36))
_CLEAN = "https://conda.example.org"
_FILE = "noarch/num-1.0-0.conda"


@dataclass
class Server:
    """A server's resolver and fetcher, with the machine's settings and what it lists."""

    cache: Path
    settings: CondaSettings
    listed: tuple[str, ...] = ()

    @property
    def resolver(self) -> CondaResolver:
        return CondaResolver(self.cache, settings=self.settings, own=False, timeout=60)

    def solve(self, *specs: str, channels: tuple[str, ...] = ()) -> None:
        """What a server does for a lock: it looks at what it is told to reach, and solves."""
        request = CondaRequest(tuple(map(Requirement, specs)), _TARGET, channels)
        resolver = self.resolver
        SitePolicy(indexes=self.listed).check_channels(resolver.channels(request), resolver.own_channels())
        resolver.solve(request, progress=Silent())

    def fetch(self, url: str) -> bytes:
        """What a server does for a build."""
        access = self.resolver.access
        guard = Guard(SitePolicy(indexes=self.listed), None, lambda: access().own_places)
        return b"".join(ChannelFetcher(access, guard=guard, attempts=1, pause=lambda _: None).stream(url))


@pytest.fixture
def own() -> Iterator[CondaChannels]:
    """The machine's own channels."""
    with serve_channels() as served:
        for name in ("forge", "defaults-1", "team"):
            served.add(name, make_package("num"))
        yield served


@pytest.fixture
def inner() -> Iterator[CondaChannels]:
    """What only the machine reaches."""
    with serve_channels() as served:
        served.add("secret", make_package("num"))
        yield served


@pytest.fixture
def server(own: CondaChannels, tmp_path: Path) -> Server:
    settings = CondaSettings(channel_alias=own.url, channels=(), default_channels=(f"{own.url}/defaults-1",))
    return Server(tmp_path / "cache", settings)


@pytest.mark.parametrize("channel", ["forge", "team", "defaults", "{own}/team", "{own}/team/linux-64"])
def test_channels_of_the_machine_s_own_need_no_listing(server: Server, own: CondaChannels, channel: str) -> None:
    server.solve("num", channels=(channel.format(own=own.url),))
    assert own.log


def test_what_the_settings_of_the_machine_name_is_its_own(server: Server, inner: CondaChannels, tmp_path: Path) -> None:
    inner.write_to(tmp_path / "files")
    local = f"file://{tmp_path}/files/secret"
    server.settings = CondaSettings(
        channel_alias=_CLEAN, channels=(local,), custom_channels={"secret": inner.url}, default_channels=()
    )
    server.solve("num", channels=("secret",))
    server.solve("num", channels=(f"{inner.url}/secret",))
    server.solve("num", channels=(local,))
    with pytest.raises(AddressNotListed):
        server.solve("num", channels=(f"file://{tmp_path}/files",))


def test_a_listed_channel_is_asked(server: Server, inner: CondaChannels) -> None:
    server.listed = (f"{inner.url}/secret",)
    server.solve("num", channels=(f"{inner.url}/secret",))
    assert inner.log
    with pytest.raises(AddressNotListed):
        server.solve("num", channels=(f"{inner.url}/secretly",))


@pytest.mark.parametrize(
    ("spec", "channel"),
    [
        ("num", "{inner}/secret"),
        ("num", "file://{files}/secret"),
        ("num", "{files}/secret"),
        ("{inner}/secret::num", "forge"),
        ("num[channel='{inner}/secret']", "forge"),
        ("file://{files}/secret::num", "forge"),
        ("{inner}/secret/" + _FILE, "forge"),
        ("num[url='{inner}/secret/" + _FILE + "']", "forge"),
        ("file://{files}/secret/" + _FILE, "forge"),
        ("num", "https://169.254.169.254/latest"),
        ("num", "https://other.example.org/channel"),
    ],
)
def test_an_address_that_is_not_listed_is_not_even_asked(
    server: Server, own: CondaChannels, inner: CondaChannels, tmp_path: Path, spec: str, channel: str
) -> None:
    inner.write_to(tmp_path)
    words = {"inner": inner.url, "files": str(tmp_path)}
    with pytest.raises(AddressNotListed, match="not among the channels that this server uses") as caught:
        server.solve(spec.format(**words), channels=(channel.format(**words),))
    assert "MLENV_INDEXES" in str(caught.value.hint)
    assert inner.log == own.log == []


def test_packages_come_from_the_machine_s_own_channels(server: Server, own: CondaChannels) -> None:
    assert server.fetch(f"{own.url}/forge/{_FILE}") == own.channels["forge"][0].data


@pytest.mark.parametrize("place", ["{inner}/secret/" + _FILE, "file://{files}/secret/" + _FILE, "file:///etc/passwd"])
def test_packages_come_from_nowhere_else(server: Server, inner: CondaChannels, tmp_path: Path, place: str) -> None:
    inner.write_to(tmp_path)
    with pytest.raises(AddressNotListed):
        server.fetch(place.format(inner=inner.url, files=tmp_path))
    assert inner.log == []


def test_a_redirect_of_the_machine_s_own_channel_leads_nowhere_else(
    server: Server, own: CondaChannels, inner: CondaChannels
) -> None:
    own.redirects["/forge/"] = f"{inner.url}/secret/{_FILE}"
    with pytest.raises(AddressNotListed):
        server.fetch(f"{own.url}/forge/{_FILE}")
    assert own.log
    assert inner.log == []
    server.listed = (inner.url,)
    assert Digest.of(server.fetch(f"{own.url}/forge/{_FILE}")) == Digest.of(inner.channels["secret"][0].data)


def test_a_mirror_is_used_and_not_told(server: Server, own: CondaChannels, inner: CondaChannels) -> None:
    server.settings = CondaSettings(
        channel_alias=_CLEAN, channels=(), mirrored_channels={"forge": (f"{own.url}/forge",)}, default_channels=()
    )
    url = f"{_CLEAN}/forge/{_FILE}"
    assert server.fetch(url) == own.channels["forge"][0].data
    server.solve("num", channels=("forge",))
    # Whoever names it by its own address names what is nobody's channel.
    with pytest.raises(AddressNotListed):
        server.solve("num", channels=(f"{own.url}/forge",))

    own.redirects["/forge/"] = f"{inner.url}/secret/{_FILE}"
    _tells_nothing(server, url, own.url, inner.url)
    assert inner.log == []
    own.redirects.clear()
    for status in (401, 404, 500):
        own.answers["/forge/"] = (status, b"")
        _tells_nothing(server, url, own.url)
        with pytest.raises(MlenvError) as caught:
            server.solve("num", channels=("forge",))
        _hides(caught.value, own.url)
        assert "forge" in str(caught.value)


def test_no_path_climbs_out_of_a_mirror(server: Server, own: CondaChannels) -> None:
    server.settings = CondaSettings(
        channel_alias=_CLEAN, channels=(), mirrored_channels={"forge": (f"{own.url}/forge",)}, default_channels=()
    )
    for climb in ("..", "%2e%2e", ".%2E"):
        with pytest.raises(MlenvError):
            server.fetch(f"{_CLEAN}/forge/{climb}/team/{_FILE}")
    assert own.log == []


@pytest.mark.parametrize("below", ["", "/conda"])
def test_a_token_of_the_machine_s_is_used_and_not_told(
    server: Server, own: CondaChannels, inner: CondaChannels, below: str
) -> None:
    own.token = "geheim-1"
    server.settings = CondaSettings(channel_alias=f"{own.url}{below}/t/geheim-1", channels=(), default_channels=())
    url = f"{own.url}{below}/forge/{_FILE}"
    if not below:
        assert server.fetch(url) == own.channels["forge"][0].data
        server.solve("num", channels=("forge",))
    for status in (401, 404, 500):
        own.answers["/"] = (status, b"")
        _tells_nothing(server, url, "geheim")
        with pytest.raises(MlenvError) as caught:
            server.solve("num", channels=("forge",))
        _hides(caught.value, "geheim")
    own.answers.clear()
    own.redirects["/"] = f"{inner.url}/secret/{_FILE}"
    _tells_nothing(server, url, "geheim")
    assert inner.log == []


def test_a_package_of_a_channel_with_credentials_is_named_by_the_channel_s_plain_address(
    server: Server, own: CondaChannels, inner: CondaChannels
) -> None:
    inner.user, inner.password = "user", "geheim-1"
    inner.add("secret", make_package("ours"))
    address = f"{inner.url}/secret".replace("//", "//user:geheim-1@")
    server.settings = CondaSettings(
        channel_alias=own.url, channels=(address,), default_channels=(f"{own.url}/defaults-1",)
    )
    with pytest.raises(MlenvError) as caught:
        server.solve("ours", channels=("forge", "nodefaults"))
    # It was found there with the credentials, though the channel was not asked for.
    assert caught.value.hint == f"add `{inner.url}/secret` to `channels:`, which has it"
    _hides(caught.value, "geheim")


def _tells_nothing(server: Server, url: str, *hidden: str) -> None:
    """A package can't be fetched, and the failure says nothing of what is to be hidden."""
    with pytest.raises(MlenvError) as caught:
        server.fetch(url)
    _hides(caught.value, *hidden)


def _hides(error: Any, *hidden: str) -> None:
    told = f"{error} {error.hint} {error.detail} {vars(error)}"
    for each in hidden:
        assert each not in told
