import base64
import json
from pathlib import Path

import pytest

from mlenv.resolve.conda_channels import ChannelTable, InvalidChannel, split_secret
from mlenv.resolve.conda_credentials import ChannelAccess, InvalidCredentialFile, read_stored
from mlenv.resolve.condarc import NO_SETTINGS, CondaSettings

_ALIAS = "https://conda.example.org"
_SITE = CondaSettings(
    default_channels=("https://repo.example.org/pkgs/main", "https://repo.example.org/pkgs/r"),
    custom_channels={"team": "https://own.example.org/conda", "short": "below"},
    custom_multichannels={"all": ("conda-forge", "https://own.example.org/extra")},
    migrated_channel_aliases=("https://old.example.org",),
)


def test_the_machine_s_own_are_what_its_settings_name_and_what_is_only_named() -> None:
    settings = CondaSettings(
        channels=("https://user:geheim@private.example.org/a", "forge", "nodefaults"),
        default_channels=_SITE.default_channels,
        custom_channels={"team": "https://own.example.org/conda"},
        custom_multichannels={"all": ("https://own.example.org/extra",)},
        mirrored_channels={"forge": ("https://mirror.example.org/t/geheim/forge",)},
    )
    table = ChannelTable(settings, _ALIAS)
    assert set(table.own) == {
        _ALIAS,
        f"{_ALIAS}/forge",
        "https://private.example.org/a",
        "https://repo.example.org/pkgs/main",
        "https://repo.example.org/pkgs/r",
        "https://repo.example.com/pkgs/pro",
        "https://own.example.org/conda/team",
        "https://own.example.org/extra",
    }
    assert set(table.places) == {*table.own, "https://mirror.example.org/forge"}
    assert "https://private.example.org/a" in table.known


# What conda 24.7 makes of the same words with the same settings (`Channel(word).base_urls`).
@pytest.mark.parametrize(
    ("word", "urls"),
    [
        ("conda-forge", ["https://conda.example.org/conda-forge"]),
        ("conda-forge/label/dev", ["https://conda.example.org/conda-forge/label/dev"]),
        ("conda-forge/linux-64", ["https://conda.example.org/conda-forge"]),
        ("main", ["https://conda.example.org/main"]),
        ("pkgs/main", ["https://repo.example.org/pkgs/main"]),
        ("defaults", ["https://repo.example.org/pkgs/main", "https://repo.example.org/pkgs/r"]),
        ("team", ["https://own.example.org/conda/team"]),
        ("team/label/x", ["https://own.example.org/conda/team/label/x"]),
        ("teams", ["https://conda.example.org/teams"]),
        ("all", ["https://conda.example.org/conda-forge", "https://own.example.org/extra"]),
        ("https://other.example.org/a/b/", ["https://other.example.org/a/b"]),
        ("https://other.example.org/a/noarch", ["https://other.example.org/a"]),
        ("https://old.example.org/forge", ["https://conda.example.org/forge"]),
        ("http://127.0.0.1:8080/x", ["http://127.0.0.1:8080/x"]),
        ("file:///srv/channel", ["file:///srv/channel"]),
        ("/srv/channel", ["file:///srv/channel"]),
    ],
)
def test_names_lead_where_conda_goes(word: str, urls: list[str]) -> None:
    assert list(ChannelTable(_SITE, _ALIAS).find(word).urls) == urls


@pytest.mark.parametrize(
    "word",
    ["", " ", "a b", "../up", "a/../b", "ftp://x.example.org/a", "https://", "https://x.example.org/a/../b", "a;b",
     "https://x.example.org/a?b=c", "https://x.example.org/a#b", "./here", "https://x.example.org:port/a", "a\x00b",
     "https://x.example.org/%2e%2e/b", "file://host/x", "a\\b"],
)  # fmt: skip
def test_what_is_no_channel_is_refused(word: str) -> None:
    with pytest.raises(InvalidChannel):
        ChannelTable(_SITE, _ALIAS).find(word)


def test_order_is_the_file_s_then_conda_s_own() -> None:
    table = ChannelTable(_SITE, _ALIAS)

    def names(*asked: str, more: tuple[str, ...] = ()) -> list[str]:
        return [each.name for each in table.order(asked, more)]

    assert names() == ["defaults"]
    assert names("b", "a") == ["b", "a", "defaults"]
    assert names("defaults", "a") == ["defaults", "a"]
    assert names("a", "nodefaults") == ["a"]
    assert names("a", more=("c", "a")) == ["a", "defaults", "c"]
    assert [each.urls for each in table.order(["pkgs/main", "defaults"])] == [
        ("https://repo.example.org/pkgs/main",),
        ("https://repo.example.org/pkgs/r",),
    ]
    with_own = ChannelTable(CondaSettings(channels=("conda-forge", "nodefaults")), _ALIAS)
    assert [each.name for each in with_own.order(["a"])] == ["a", "conda-forge"]
    assert [each.name for each in with_own.order(["a", "nodefaults"])] == ["a"]


@pytest.mark.parametrize(
    ("url", "clean", "asked", "header"),
    [
        ("https://u:p%40@x.example.org/a", "https://x.example.org/a", "https://x.example.org/a/f", b"u:p@"),
        ("https://x.example.org/t/T-1/a", "https://x.example.org/a", "https://x.example.org/t/T-1/a/f", None),
        (
            "https://x.example.org/api/t/T-1/a",
            "https://x.example.org/api/a",
            "https://x.example.org/api/t/T-1/a/f",
            None,
        ),
        ("https://x.example.org/a", "https://x.example.org/a", "https://x.example.org/a/f", None),
    ],
)
def test_credentials_are_taken_out_of_addresses(url: str, clean: str, asked: str, header: bytes | None) -> None:
    table = ChannelTable(NO_SETTINGS, _ALIAS)
    channel = table.find(url)
    assert channel.urls == (clean,)
    access = ChannelAccess(table, {}, own=False)
    headers = {"Authorization": "Basic " + base64.b64encode(header).decode()} if header else {}
    assert list(access.places(f"{clean}/f")) == [(asked, headers)]
    # Beside the channel, nothing is sent.
    assert list(access.places("https://x.example.org/ab/f")) == [("https://x.example.org/ab/f", {})]
    secret = split_secret(url)[1]
    assert secret is None or not {"p@", "T-1"} & set(repr(secret).split("'"))


def test_the_longest_address_counts_and_mirrors_have_their_own_credentials() -> None:
    settings = CondaSettings(
        channel_alias="https://u:outer@x.example.org",
        custom_channels={"own": "https://u:inner@x.example.org"},
        mirrored_channels={"own": ("https://m.example.org/t/TT/own", "https://x.example.org/own")},
    )
    access = ChannelAccess(ChannelTable(settings, _ALIAS), {}, own=False)
    outer, inner = (base64.b64encode(f"u:{each}".encode()).decode() for each in ("outer", "inner"))
    assert list(access.places("https://x.example.org/a/f")) == [
        ("https://x.example.org/a/f", {"Authorization": f"Basic {outer}"})
    ]
    assert list(access.places("https://x.example.org/own/f")) == [
        ("https://m.example.org/t/TT/own/f", {}),
        ("https://x.example.org/own/f", {"Authorization": f"Basic {inner}"}),
    ]
    assert access.headers(["https://x.example.org/own"]) == [("x.example.org", "/own", f"Basic {inner}")]
    assert access.mirrors(["https://x.example.org/own", "https://x.example.org/a"]) == {
        "https://x.example.org/own/": ["https://m.example.org/t/TT/own/", "https://x.example.org/own/"]
    }


def test_credentials_by_host(tmp_path: Path) -> None:
    path = tmp_path / "auth.json"
    stored = {"a.example.org": {"BearerToken": "b"}, "*.example.org": {"CondaToken": "t"}, "c.org": {"Unknown": 1}}
    path.write_text(json.dumps(stored))
    access = ChannelAccess(ChannelTable(NO_SETTINGS, _ALIAS), read_stored({"RATTLER_AUTH_FILE": str(path)}), own=False)
    assert list(access.places("https://a.example.org/x")) == [
        ("https://a.example.org/x", {"Authorization": "Bearer b"})
    ]
    assert list(access.places("https://b.example.org/x")) == [("https://b.example.org/t/t/x", {})]
    assert list(access.places("https://c.org/x")) == [("https://c.org/x", {})]


@pytest.mark.parametrize("text", ["", "[]", '{"a": "geheim"}', "geheim", "[" * 100_000])
def test_a_credential_file_that_is_none(tmp_path: Path, text: str) -> None:
    assert read_stored({"HOME": str(tmp_path)}) == {}
    path = tmp_path / ".rattler" / "credentials.json"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(InvalidCredentialFile) as caught:
        read_stored({"HOME": str(tmp_path)})
    assert "geheim" not in str(caught.value)
    with pytest.raises(InvalidCredentialFile):
        read_stored({"RATTLER_AUTH_FILE": str(tmp_path / "nowhere")})
