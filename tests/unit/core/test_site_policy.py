"""What a site's machines do for others: the list of addresses, and source builds."""

import pytest

from mlenv.core.site_policy import AddressNotListed, SitePolicy, SourceBuildsOff, addresses_of
from mlenv.core.spec import PUBLIC, Index, Requirement, Sources

LISTED = SitePolicy(indexes=("https://wheels.example.org/team", "http://127.0.0.1:8080"))
OWN = "https://mirror.example.org/simple"


@pytest.mark.parametrize(
    "url",
    [
        "https://wheels.example.org/team",
        "https://wheels.example.org/team/",
        "https://WHEELS.example.org:443/team/simple/",
        "http://127.0.0.1:8080",
        "http://127.0.0.1:8080/simple",
        OWN,
        f"{OWN}/",
    ],
)
def test_what_begins_as_a_listed_address_is_allowed(url: str) -> None:
    assert LISTED.lists(url, OWN)


@pytest.mark.parametrize(
    "url",
    [
        "http://wheels.example.org/team",
        "https://wheels.example.org/teammates",
        "https://wheels.example.org/",
        "https://wheels.example.org:444/team",
        "https://wheels.example.org/team/../admin",
        "https://wheels.example.org/team/%2e%2e/admin",
        "https://wheels.example.org/team/%2E./admin",
        "https://wheels.example.org.evil.example/team",
        "https://wheels.example.org@evil.example/team",
        "https://evil.example\\@wheels.example.org/team",
        "https://wheels.example.org:x/team",
        "https:/wheels.example.org/team",
        "http://127.0.0.1:8081/simple",
        "http://169.254.169.254/latest/meta-data",
        "file:///etc/passwd",
        "",
    ],
)
def test_everything_else_is_refused(url: str) -> None:
    assert not LISTED.lists(url, OWN)
    with pytest.raises(AddressNotListed, match="fetches nothing from"):
        LISTED.check_addresses([url], OWN)


def test_channels_are_the_machine_s_own_or_listed() -> None:
    own = ("https://conda.example.org", "https://repo.example.org/pkgs/main", "file:///srv/channel")
    LISTED.check_channels(
        ["https://conda.example.org/forge", "https://repo.example.org/pkgs/main", "https://wheels.example.org/team/c"],
        own,
    )
    LISTED.check_channels(["file:///srv/channel", "file:///srv/channel/noarch/num-1.0-0.conda"], own)
    for url in (
        "https://repo.example.org/pkgs/other",
        "http://conda.example.org/forge",
        "https://conda.example.org:8443/forge",
        "https://conda.example.org/../x",
        "file:///srv/channels",
        "file:///srv/channel/../secret",
        "file:///etc/passwd",
        "/srv/channel",
        "http://169.254.169.254/latest",
    ):
        with pytest.raises(AddressNotListed, match="not among the channels"):
            LISTED.check_channels(["https://conda.example.org/forge", url], own)


def test_a_refusal_shows_no_credentials_and_says_what_setting_lists_addresses() -> None:
    with pytest.raises(AddressNotListed) as caught:
        LISTED.check_addresses(["https://ada:hunter2@evil.example/simple"], None)
    assert "hunter2" not in str(caught.value)
    assert "MLENV_INDEXES" in str(caught.value.hint)


def test_addresses_are_found_wherever_a_spec_names_them() -> None:
    sources = Sources(Index("https://one.example/"), (Index("https://two.example/", flat=True),))
    lines = [
        "numpy>=1.2 ; python_version < '4'",
        "direct @ https://three.example/direct-1-py3-none-any.whl",
        "odd[extra]@https:/four.example/odd-1-py3-none-any.whl",
        "http://five.example/bare-1-py3-none-any.whl",
        "file:///etc/passwd",
    ]
    found = list(addresses_of(sources, map(Requirement, lines)))
    assert found == [
        "https://one.example/",
        "https://two.example/",
        "https://three.example/direct-1-py3-none-any.whl",
        "https:/four.example/odd-1-py3-none-any.whl",
        "http://five.example/bare-1-py3-none-any.whl",
        "file:///etc/passwd",
    ]
    assert list(addresses_of(PUBLIC, [])) == []


def test_source_builds_are_off_until_they_are_allowed() -> None:
    off, on = SitePolicy(), SitePolicy(source_builds=True)
    off.check_source_builds([], any_package=False)
    on.check_source_builds(["fuse"], any_package=True)
    for names, any_package in (["fuse"], False), ([], True):
        with pytest.raises(SourceBuildsOff) as caught:
            off.check_source_builds(names, any_package=any_package)
        assert "MLENV_SOURCE_BUILDS" in str(caught.value.hint)
