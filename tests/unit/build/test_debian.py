import stat
from pathlib import Path

import pytest
from support.images import new_store

from mlenv.build.debian import DebianBaseFailed, NoMmdebstrap, create_debian_base
from mlenv.errors import InvalidInput


@pytest.mark.parametrize(
    ("suite", "packages", "mirror"),
    [
        ("buster", (), None),
        ("bookworm;rm", (), None),
        ("bookworm", ("--hook",), None),
        ("bookworm", ("a b",), None),
        ("bookworm", ("vim,emacs",), None),
        ("bookworm", (), "--setup-hook=true"),
    ],
)
def test_what_is_no_suite_or_package_never_reaches_the_tool(
    tmp_path: Path, suite: str, packages: tuple[str, ...], mirror: str | None
) -> None:
    with pytest.raises(InvalidInput, match="not a"):
        create_debian_base(suite, packages=packages, mirror=mirror, blobs=new_store(tmp_path), workdir=tmp_path)


def test_a_missing_tool_is_told_with_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoMmdebstrap) as caught:
        create_debian_base("bookworm", blobs=new_store(tmp_path), workdir=tmp_path)
    assert "apt install mmdebstrap" in (caught.value.hint or "")


def test_a_failure_says_the_first_error_and_leaves_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "mmdebstrap"
    script.write_text(
        "#!/bin/sh\necho 'I: starting'\necho 'E: the mirror is down' >&2\necho 'E: mmdebstrap failed' >&2\nexit 25\n"
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    store = new_store(tmp_path)
    with pytest.raises(
        DebianBaseFailed, match=r"could not make trixie \(exit code 25\): E: the mirror is down$"
    ) as caught:
        create_debian_base("trixie", blobs=store, workdir=tmp_path)
    assert caught.value.detail == "I: starting\nE: the mirror is down\nE: mmdebstrap failed"
    assert list(store.digests()) == []


def test_a_tool_that_hangs_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "mmdebstrap"
    script.write_text("#!/bin/sh\nexec sleep 60\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(Exception, match="did not finish bookworm within 0 s"):
        create_debian_base("bookworm", blobs=new_store(tmp_path), workdir=tmp_path, timeout=0.05)


def test_another_architecture_needs_more_tools() -> None:
    error = DebianBaseFailed("trixie", 25, ["E: install arch-test for foreign architecture support"])
    assert "qemu-user-static" in (error.hint or "")
