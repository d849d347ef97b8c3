import os
from pathlib import Path

import pytest

from mlenv.resolve.condarc import NO_SETTINGS, CondaSettings, InvalidCondarc, read_settings


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def _read(home: Path, **variables: str) -> CondaSettings:
    return read_settings({"HOME": str(home), **variables}, root=home.parent / "root")


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_without_files_conda_does_what_it_does(home: Path) -> None:
    assert _read(home) == NO_SETTINGS
    assert NO_SETTINGS.add_pip_as_python_dependency


def test_later_places_are_stronger(home: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    _write(
        root / "etc/conda/.condarc",
        "channel_alias: https://one.example.org\nchannels: [site]\noffline: true\n"
        "custom_channels: {a: https://one.example.org, b: https://one.example.org}\n",
    )
    _write(root / "etc/conda/condarc.d/20.yml", "channel_alias: https://two.example.org\n")
    _write(root / "etc/conda/condarc.d/10.yaml", "channel_alias: https://three.example.org\n")
    _write(root / "etc/conda/condarc.d/notes.txt", "channel_alias: https://four.example.org\n")
    _write(home / ".condarc", "channels: [own, site]\ncustom_channels: {a: https://own.example.org}\noffline: no\n")
    found = _read(home)
    assert found.channel_alias == "https://two.example.org"
    assert found.channels == ("own", "site")
    assert found.custom_channels == {"a": "https://own.example.org", "b": "https://one.example.org"}
    assert not found.offline

    named = _write(tmp_path / "named.yml", "channel_alias: https://named.example.org\n")
    prefix = _write(tmp_path / "prefix/.condarc", "channel_alias: https://prefix.example.org\nchannels: last\n")
    variables = {"CONDA_PREFIX": str(prefix.parent)}
    assert _read(home, **variables).channel_alias == "https://prefix.example.org"
    assert _read(home, **variables).channels == ("last", "own", "site")
    variables["CONDARC"] = str(named)
    assert _read(home, **variables).channel_alias == "https://named.example.org"
    variables |= {"CONDA_CHANNEL_ALIAS": "https://variable.example.org", "CONDA_CHANNELS": "x, y"}
    found = _read(home, **variables)
    assert found.channel_alias == "https://variable.example.org"
    assert found.channels == ("x", "y", "last", "own", "site")


def test_variables_are_filled_in_and_secrets_not_shown(home: Path) -> None:
    text = "channel_alias: https://${WHO}:$SECRET@conda.example.org/$NOT_SET\n"
    text += "mirrored_channels: {conda-forge: ['https://x.example.org/t/geheim/forge']}\n"
    _write(home / ".condarc", text)
    found = _read(home, WHO="user", SECRET="geheim")
    assert found.channel_alias == "https://user:geheim@conda.example.org/$NOT_SET"
    assert found.mirrored_channels == {"conda-forge": ("https://x.example.org/t/geheim/forge",)}
    assert "geheim" not in repr(found)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("- a\n- b\n", "not a mapping"),
        ("channels: {a: b}\n", "channels: expected text on one line"),
        ("channels: [[a]]\n", "channels: expected text on one line"),
        ("channel_alias: conda.example.org\n", "channel_alias: expected an address with `https://`"),
        ("custom_channels: [a]\n", "custom_channels: expected a mapping"),
        ("custom_channels: {a: {b: c}}\n", "custom_channels.a: expected text"),
        ("offline: perhaps\n", "offline: expected true or false"),
        ("channels: [\n", "not YAML at line"),
        ("channels: !!python/object/apply:os.system [id]\n", "not YAML"),
        ("a: &a [x]\nchannels: [*a, *a]\n", "aliases (`*name`) are not read"),
        ("[" * 1000, "more brackets than settings have"),
        ("[" * 400, "not YAML"),
        ("channels: ['a\x07']\n", "not YAML"),
    ],
)
def test_what_can_t_be_understood_is_refused(home: Path, text: str, why: str) -> None:
    path = _write(home / ".condarc", text)
    with pytest.raises(InvalidCondarc) as caught:
        _read(home)
    assert why in str(caught.value)
    assert str(path) in str(caught.value)


def test_too_much_and_what_is_no_text(home: Path) -> None:
    (home / ".condarc").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidCondarc, match="not YAML"):
        _read(home)
    (home / ".condarc").write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(InvalidCondarc, match="more than 1 MiB"):
        _read(home)


def test_what_conda_has_besides_is_not_looked_at(home: Path) -> None:
    _write(home / ".condarc", "pip_interop_enabled: [1]\nssl_verify: false\nchannels:\n")
    assert _read(home) == NO_SETTINGS
    assert os.fspath(home / ".condarc")
