import pytest

from mlenv.core.digest import Digest, InvalidDigest
from mlenv.distribution.names import InvalidRemoteName, RemoteName

SHA = f"sha256:{'a' * 64}"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("debian", ("docker.io", "library/debian", None, None)),
        ("debian:12", ("docker.io", "library/debian", "12", None)),
        ("team/tool", ("docker.io", "team/tool", None, None)),
        ("localhost/a", ("localhost", "a", None, None)),
        ("127.0.0.1:5000/a/b:1.0", ("127.0.0.1:5000", "a/b", "1.0", None)),
        ("[::1]:5000/a", ("[::1]:5000", "a", None, None)),
        ("Registry.Example.org/a_b/c__d/e-f.g:v_1", ("registry.example.org", "a_b/c__d/e-f.g", "v_1", None)),
        (f"h.example/a@{SHA}", ("h.example", "a", None, SHA)),
        (f"h.example/a:1@{SHA}", ("h.example", "a", "1", SHA)),
        ("  h.example/a  ", ("h.example", "a", None, None)),
    ],
)
def test_names_are_read(text: str, parts: tuple[str, str, str | None, str | None]) -> None:
    name = RemoteName.parse(text)
    assert (name.host, name.repository, name.tag, str(name.digest) if name.digest else None) == parts


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            ":",
            "/",
            "a//b",
            "UPPER",
            "h.example/",
            "h.example/a:",
            "h.example/a:-x",
            "h.example/-a",
            "h.example/a..b",
        ),
        *("h.example/a/../b", "h.example/a b", "h.example:port/a", "user@h.example/a", "https://h.example/a"),
        *("h.example/a\n", "h.example/ä", "h.example/" + "a" * 256, "h.example/a:" + "t" * 129, "h.example/a@sha256:1"),
    ],
)
def test_what_is_no_name(text: str) -> None:
    with pytest.raises((InvalidRemoteName, InvalidDigest)):
        RemoteName.parse(f"{text}x" if text == "h.example/a\n" else text)


def test_what_is_asked_for() -> None:
    name = RemoteName.parse("debian")
    assert (name.reference, name.registry, str(name)) == ("latest", "registry-1.docker.io", "docker.io/library/debian")
    tagged = name.with_tag("12")
    assert (tagged.reference, str(tagged)) == ("12", "docker.io/library/debian:12")
    fixed = tagged.at(Digest.parse(SHA))
    assert (fixed.reference, fixed.tag) == (SHA, None)
    assert str(fixed) == f"docker.io/library/debian@{SHA}"
    with pytest.raises(InvalidRemoteName):
        name.with_tag("a b")
