"""A server's settings, and where they come from."""

from pathlib import Path
from typing import Any

import pytest

from mlenv.server.settings import InvalidSettings, Settings, load


def _load(flags: dict[str, Any], environment: dict[str, str], file: Path | None = None) -> Any:
    return load(flags, environment, file=file, default_home=Path("/srv/mlenv"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "server.toml"
    path.write_text('port = 1111\nhost = "localhost"\nmax-page = 11\nworkers = 1\n')
    return path


def test_flags_come_before_variables_and_these_before_the_file(file: Path) -> None:
    loaded = _load({"port": "3333"}, {"MLENV_PORT": "2222", "MLENV_MAX_PAGE": "22"}, file)
    assert (loaded.settings.port, loaded.settings.max_page, loaded.settings.workers) == (3333, 22, 1)
    assert loaded.settings.keep_alive == Settings.model_fields["keep_alive"].default
    origins = loaded.origins
    assert (origins["port"], origins["max_page"], origins["workers"]) == ("flag --port", "MLENV_MAX_PAGE", str(file))
    assert origins["keep_alive"] == "default"


def test_a_variable_names_the_file(file: Path) -> None:
    assert _load({}, {"MLENV_CONFIG": str(file)}).settings.port == 1111


def test_an_empty_variable_is_none() -> None:
    assert _load({}, {"MLENV_DATABASE": "", "MLENV_PORT": ""}).settings.database_url is None


def test_secrets_are_not_listed() -> None:
    variables = {"MLENV_DATABASE": "postgresql://ada:hunter2@db.example.org/m", "MLENV_OIDC_CLIENT_SECRET": "hunter3"}
    loaded = _load({}, variables)
    assert loaded.settings.database_url == variables["MLENV_DATABASE"]
    text = str(loaded.documents()) + repr(loaded)
    assert "hunter" not in text
    assert "db.example.org" in text


def test_every_setting_is_listed_with_its_flag_variable_and_meaning() -> None:
    documents = _load({}, {}).documents()
    assert [each["setting"] for each in documents] == list(Settings.model_fields)
    assert all(each["meaning"] and each["flag"] and each["variable"].startswith("MLENV_") for each in documents)


@pytest.mark.parametrize(
    ("flags", "environment", "named"),
    [
        ({}, {"MLENV_PORT": "many"}, "MLENV_PORT"),
        ({"port": "70000"}, {}, "--port"),
        ({"workers": "-1"}, {}, "--workers"),
        ({"public_url": "ftp://example.org"}, {}, "--public-url"),
        ({"public_url": "https://ada:hunter2@example.org"}, {}, "--public-url"),
        ({"tls_certificate": "server.pem"}, {}, "tls_key"),
        ({"insecure_http": True, "host": "0.0.0.0"}, {}, "force_insecure_http"),
        ({"log_format": "xml"}, {}, "--log-format"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(flags: Any, environment: Any, named: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        _load(flags, environment)
    assert named in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_several_mistakes_are_all_told() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        _load({"port": "x"}, {"MLENV_WORKERS": "y"})
    assert len(caught.value.exceptions) == 2


def test_plain_http_beyond_loopback_must_be_forced() -> None:
    assert _load({"force_insecure_http": True, "host": "0.0.0.0"}, {}).settings.plain


@pytest.mark.parametrize(
    ("text", "said"),
    [("prot = 1\n", "did you mean port?"), ("port = \n", "not TOML"), ("[limits]\n", "no setting 'limits'")],
)
def test_a_file_with_a_mistake_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "server.toml"
    path.write_text(text)
    with pytest.raises(InvalidSettings) as caught:
        _load({}, {}, path)
    assert said in f"{caught.value} {caught.value.hint}"
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="can't be read"):
        _load({}, {}, tmp_path / "none.toml")
