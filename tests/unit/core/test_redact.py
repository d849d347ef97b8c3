"""Credentials in URLs are found and never shown."""

import time

import pytest

from mlenv.core.redact import has_credentials, redact, strip_placeholders, without_credentials

SECRETS = [
    "https://user:hunter2@example.org/simple",
    "https://hunter2@example.org/simple",
    "https://hunter2:@example.org/simple",
    "https://user:hunt/er2hunter2@example.org/simple",
    "https://${USER}:hunter2@example.org/simple",
    "git+ssh://git:hunter2@example.org/a.git",
    "name @ https://user:hunter2@example.org/a-1-py3-none-any.whl",
    "https://example.org/a.whl?sv=1&sig=hunter2",
    "https://example.org/a.whl?X-Amz-Signature=hunter2",
    "https://conda.example.org/t/hunter2/main",
]
HARMLESS = [
    "https://example.org/simple",
    "https://${USER}:${PASSWORD}@example.org/simple",
    "https://user:${PASSWORD}@example.org/simple",
    "git+ssh://git@example.org/a.git",
    "git+https://example.org:8443/a.git@v1.0",
    "git+https://example.org/a.git@v1.0#subdirectory=x",
    "name@example.org",
    "azureml://registries/r/environments/e/versions/1",
]


@pytest.mark.parametrize("text", SECRETS)
def test_secrets_are_found_and_redacted(text: str) -> None:
    assert has_credentials(text)
    assert "hunter2" not in redact(text)


@pytest.mark.parametrize("text", HARMLESS)
def test_what_holds_no_secret_is_left_alone(text: str) -> None:
    assert not has_credentials(text)


def test_placeholders_are_taken_out() -> None:
    assert strip_placeholders("https://${U}:${P}@example.org/x") == "https://example.org/x"
    assert strip_placeholders("https://u:p@example.org/x") == "https://u:p@example.org/x"


def test_hostile_text_is_searched_in_bounded_time() -> None:
    started = time.process_time()
    for text in ("http://" * 5000 + "@", "a.b-" * 20_000 + "://@", "://" + "${" * 20_000):
        assert redact(text)
        has_credentials(text)
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://u:p@h:8/a?b=1#x", "https://h:8/a?b=1"),
        ("https://h/a?sv=1&sig=hunter2&b=2", "https://h/a?sv=1&b=2"),
        ("https://h/a?token=hunter2", "https://h/a"),
        ("https://h/a?X-Amz-Signature=hunter2;x=1", "https://h/a?x=1"),
        ("file:///a/b-1-py3-none-any.whl", "file:///a/b-1-py3-none-any.whl"),
    ],
)
def test_addresses_are_kept_without_credentials(url: str, kept: str) -> None:
    assert without_credentials(url) == kept
    assert not has_credentials(kept)
