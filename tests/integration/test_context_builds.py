"""Dockerfile contexts, built for real by the engines of this machine: what comes of them, and what they can't reach."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from support.docker import Docker
from support.tiny_base import make_tiny_base

from mlenv.build.context_engines import BuildKit, look_for_engines
from mlenv.build.context_sandbox import BuilderFailed, BuildTooSlow, run_listening
from mlenv.build.installed import installed_of
from mlenv.core.environment import Definition, EnvironmentVersion
from mlenv.core.locking import LockOptions
from mlenv.core.platform import Platform
from mlenv.core.progress import Silent
from mlenv.core.reference import parse_name
from mlenv.core.spec import BuildContext, Spec
from mlenv.service.building import BuildResult
from mlenv.service.context_builds import ContextOptions
from mlenv.wiring.embedded import Embedded, open_embedded

AMD64 = Platform("linux", "amd64")
QUIET = Silent()
METADATA = "Metadata-Version: 2.1\\nName: Demo.Package\\nVersion: {}\\n\\n"


class Lines(Silent):
    """Remembers what builders say."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    directory = tmp_path_factory.mktemp("contexts")
    with open_embedded(directory / "home") as store:
        store.bases.import_(f"oci:{make_tiny_base(directory / 'tiny')}", "tiny", progress=QUIET)
        yield store


@pytest.fixture
def docker(dockers: Callable[[str], Docker], monkeypatch: pytest.MonkeyPatch) -> Docker:
    """A docker whose builder, BuildKit, is taken."""
    found = dockers("trixie")
    for name, value in found.environment.items():
        monkeypatch.setenv(name, value)
    return found


@pytest.fixture
def context(tmp_path: Path) -> Path:
    (tmp_path / "context").mkdir()
    return tmp_path / "context"


def create(store: Embedded, context: Path, dockerfile: str, name: str = "built") -> EnvironmentVersion:
    (context / "Dockerfile").write_text(dockerfile)
    spec = store.contexts.taken(Spec(build=BuildContext(str(context))), progress=QUIET)
    return store.environments.create(Definition(parse_name(name), spec)).version


def build(
    store: Embedded, version: EnvironmentVersion, lines: Lines | None = None, engine: str = "buildah", **more: Any
) -> BuildResult:
    arguments = tuple(more.pop("arguments", {}).items())
    options = LockOptions(arguments=arguments) if arguments else None
    context = ContextOptions(engine, more.pop("network", "none"), more.pop("secrets", {}))
    return store.building.build(version, AMD64, options=options, context=context, progress=lines or QUIET, **more)


def names_in(store: Embedded, result: BuildResult) -> list[str]:
    """What the layers of an image hold that its base's do not, by the last layer's tar."""
    layer = result.image.layers[-1][0]
    path = store.blobs.path(layer.digest)
    found = subprocess.run(f"zstd -dc {path} | tar -tv", shell=True, capture_output=True, text=True, check=True)
    return found.stdout.splitlines()


def test_both_engines_make_the_same_image_twice(store: Embedded, context: Path) -> None:
    (context / "src").mkdir()
    (context / "src/a.py").write_text("print()\n")
    (context / "no.log").write_text("no")
    (context / ".dockerignore").write_text("*.log\n")
    site = "/usr/local/lib/python3.11/dist-packages/demo_package-1.0.dist-info"
    text = (
        "ARG BASE=tiny\nFROM ${BASE} AS first\nARG WHO=nobody\nCOPY . /src\nRUN echo begun && echo $WHO > /who\n"
        f"RUN mkdir -p {site} && echo '{METADATA.format('1.0')}' > {site}/METADATA\n"
        "RUN --mount=type=secret,id=token cat /run/secrets/token > /dev/null && cat /run/secrets/token\n"
        "FROM first\nCOPY --from=tiny /usr/bin/env /env\nENV A=b\n"
    )
    version = create(store, context, text)
    lines = Lines()
    secret = "s3cret-value-of-nobody"
    built = build(store, version, lines, arguments={"WHO": "me"}, secrets={"token": secret})
    assert built.record is not None
    assert built.lock.context is not None
    assert built.lock.context.arguments == (("WHO", "me"),)
    assert [each.name for each in built.lock.context.bases] == ["tiny"]
    assert built.lock.base == store.bases.names()["docker.io/library/tiny:latest"]
    # The log came line by line, and told no secret, which is nowhere else either.
    assert "begun" in lines.lines
    assert any("***" in each for each in lines.lines)
    assert secret not in "".join(lines.lines)
    found = subprocess.run(["grep", "-rlF", secret, str(store.home)], capture_output=True, text=True, check=False)
    assert found.stdout == ""
    # Layers of the base are the base's own, and times are fixed.
    base = store.bases.need("tiny", progress=QUIET).image
    assert built.image.layers[0] == base.layers[0]
    listing = names_in(store, replace(built, image=replace(built.image, layers=built.image.layers[:-1])))
    assert any("2020-01-01" in each and each.endswith("src/src/a.py") for each in listing), listing
    assert not any("no.log" in each for each in listing)
    assert "A=b" in built.image.config["config"]["Env"]
    history = json.dumps(built.image.config["history"])
    assert "mlenv-base" not in history
    assert f"tiny@{built.lock.base}" in history
    # Asked again, it is there; made again, by whichever engine, it is the same.
    assert build(store, version).record is None
    for engine in ("buildah", "podman"):
        made, _ = store.contexts.make(
            version,
            built.lock,
            _other_key(built, version),
            ContextOptions(engine, "none", {"token": secret}),
            progress=QUIET,
        )
        assert made.manifest.digest == built.image.manifest.digest, engine


def _other_key(built: BuildResult, version: EnvironmentVersion) -> Any:
    from mlenv.core.layer import Compression
    from mlenv.core.records import ImageKey

    assert built.lock.foundation is not None
    return ImageKey(built.lock.digest, built.lock.foundation, version.spec.digest, Compression.ZSTD)


def test_what_is_installed_is_read_from_the_layers(store: Embedded, context: Path) -> None:
    site = "/opt/venv/lib/python3.11/site-packages"
    setup = (
        f"FROM tiny\nRUN mkdir -p /opt/venv/bin {site}/demo-1.0.dist-info {site}/old-1.dist-info && "
        "touch /opt/venv/pyvenv.cfg && cp /usr/bin/env /opt/venv/bin/python3.11\n"
        f"RUN echo '{METADATA.format('1.0')}' > {site}/demo-1.0.dist-info/METADATA && "
        f"echo '{METADATA.format('9').replace('Demo.Package', 'old')}' > {site}/old-1.dist-info/METADATA && "
        f"echo 'demo.py,sha256=x,120' > {site}/demo-1.0.dist-info/RECORD\n"
        "FROM 0\n"
    ).replace("FROM 0\n", "")
    setup = setup.replace("FROM tiny", "FROM tiny AS below") + f"FROM below\nRUN rm -r {site}/old-1.dist-info\n"
    setup += "RUN cp /usr/bin/env /opt/venv/bin/python3\nENV PATH=/opt/venv/bin:/usr/bin\n"
    version = create(store, context, setup, "packages")
    built = build(store, version)
    installed = installed_of(built.image.manifest.digest, store.blobs)
    assert installed is not None
    assert [(each.name, each.version, each.path, each.size) for each in installed.packages] == [
        ("demo-package", "1.0", site, 120)
    ]
    shown = store.building.as_built(version, built.lock)
    assert [(each.name, each.version) for each in shown.packages] == [("demo-package", "1.0")]
    assert built.lock.packages == ()


def test_a_version_stays_what_it_was_when_its_directory_changes(store: Embedded, context: Path) -> None:
    (context / "a").write_text("one")
    version = create(store, context, "FROM scratch\nCOPY a /a\n", "scratch")
    (context / "a").write_text("two")
    (context / "Dockerfile").write_text("FROM nothing-like-that\n")
    built = build(store, version)
    assert built.lock.base is None
    assert any(each.split()[2] == "3" and each.endswith(" a") for each in names_in(store, built))
    # Other content under the same name and version is a conflict, the same content from elsewhere is none.
    (context / "a").write_text("one")
    moved = context.rename(context.with_name("moved"))
    again = create(store, moved, "FROM scratch\nCOPY a /a\n", "scratch")
    assert again.version == version.version


def test_a_failure_says_what_the_builder_said(store: Embedded, context: Path) -> None:
    version = create(store, context, "FROM tiny\nRUN echo some words; cat /nowhere\n", "failing")
    lines = Lines()
    with pytest.raises(BuilderFailed, match="buildah failed") as caught:
        build(store, version, lines)
    assert "some words" in lines.lines
    assert "cat: /nowhere: No such file or directory" in str(caught.value.detail)
    (record,) = store.registry.builds(version.name, version.version)
    assert record.status.value == "failed"
    assert list((store.home / "work").rglob("context-*")) == []


def _processes_in(home: Path) -> list[str]:
    """Processes that have something of a store's sandboxes open as their root or in their command."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().decode(errors="replace")
                mounts = (entry / "mounts").read_text()
            except OSError:
                continue
            if str(home) in command or f"{home}/work" in mounts or "mlenv-test-sleeper" in command:
                found.append(command)
    return found


class _Stop(Exception):
    """Somebody had enough."""


class _Stopping(Lines):
    def line(self, text: str) -> None:
        super().line(text)
        # BuildKit puts the step and the time before it.
        if text.split()[-1:] == ["begun"] and "echo" not in text:
            raise _Stop


@pytest.mark.parametrize("engine", ["buildah", "docker"])
def test_a_build_that_is_stopped_ends_with_all_it_started(
    store: Embedded, context: Path, docker: Docker, engine: str
) -> None:
    text = "FROM tiny\nRUN (sleep 600; : mlenv-test-sleeper) & echo begun; sleep 600; : mlenv-test-sleeper\n"
    version = create(store, context, text, f"slow-{engine}")
    with pytest.raises(_Stop):
        build(store, version, _Stopping(), engine)
    # The kernel ends what is in the namespace when its first process is gone, not a moment later.
    deadline = time.monotonic() + 10
    while (left := _processes_in(store.home)) and time.monotonic() < deadline:
        pass
    assert left == []
    assert list((store.home / "work").rglob("context-*")) == []


def test_docker_makes_the_same_image_twice(store: Embedded, context: Path, docker: Docker) -> None:
    (context / "a").write_text("one")
    text = (
        "FROM tiny AS first\nARG WHO=nobody\nCOPY a /a\nRUN echo $WHO > /who\n"
        "RUN --mount=type=secret,id=token cat /run/secrets/token > /dev/null && cat /run/secrets/token\n"
        "FROM first\nCOPY --from=tiny /usr/bin/env /env\nENV A=b\n"
    )
    version = create(store, context, text, "by-docker")
    lines = Lines()
    secret = "s3cret-value-of-docker"
    built = build(store, version, lines, "docker", arguments={"WHO": "me"}, secrets={"token": secret})
    assert built.record is not None
    assert any("***" in each for each in lines.lines)
    assert secret not in "".join(lines.lines)
    found = subprocess.run(["grep", "-rlF", secret, str(store.home)], capture_output=True, text=True, check=False)
    assert found.stdout == ""
    assert built.image.layers[0] == store.bases.need("tiny", progress=QUIET).image.layers[0]
    assert any("2020-01-01" in each and each.endswith(" env") for each in names_in(store, built))
    assert "A=b" in built.image.config["config"]["Env"]
    history = json.dumps(built.image.config["history"])
    assert "mlenv-base" not in history
    options = ContextOptions("docker", "none", {"token": secret})
    made, _ = store.contexts.make(version, built.lock, _other_key(built, version), options, progress=QUIET)
    assert made.manifest.digest == built.image.manifest.digest


def test_docker_says_what_failed_and_gives_steps_no_network(store: Embedded, context: Path, docker: Docker) -> None:
    version = create(store, context, "FROM tiny\nRUN cat /proc/net/dev; cat /nowhere\n", "failing-docker")
    lines = Lines()
    with pytest.raises(BuilderFailed, match="docker failed") as caught:
        build(store, version, lines, "docker")
    assert "cat: /nowhere: No such file or directory" in str(caught.value.detail)
    interfaces = [word for line in lines.lines for word in line.split() if word.endswith(":") and "face" not in word]
    assert "lo:" in interfaces
    assert not [each for each in interfaces if each.startswith(("eth", "en", "veth"))]


def test_a_docker_whose_builder_writes_no_oci_images_is_passed_over(
    tmp_path: Path, docker: Docker, dockers: Callable[[str], Docker], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert look_for_engines(None, tmp_path).engine == BuildKit(
        "docker", docker.must("info", "--format={{.ServerVersion}}").strip(), str(docker.bin / "docker")
    )
    # The client of the one, with buildx, and the service of the other.
    monkeypatch.setenv("DOCKER_HOST", dockers("bookworm").environment["DOCKER_HOST"])
    found = look_for_engines(None, tmp_path)
    assert found.engine is not None
    assert found.engine.name == "buildah"
    assert "writes no OCI images" in found.others["docker"]


def test_what_takes_too_long_is_ended() -> None:
    command = ["sh", "-c", "echo begun; sleep 600 & sleep 600; : mlenv-test-sleeper"]
    said: list[str] = []
    with pytest.raises(BuildTooSlow, match=r"0\.5 seconds"):
        run_listening(command, name="sh", environment=os.environ, say=said.append, timeout=0.5)
    assert said == ["begun"]


def test_a_hostile_build_sees_nothing_of_this_machine(
    store: Embedded, context: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = "canary-5b1f0c77"
    monkeypatch.setenv("MLENV_TOKEN", f"{canary}-variable")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"{canary}-variable")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "token").write_text(f"{canary}-file")
    (store.home / "token").write_text(f"{canary}-home")
    (store.machine.work.directory() / "other-context").write_text(f"{canary}-context")
    steps = [
        "id; cat /proc/self/uid_map /proc/self/status",
        "env; for p in /proc/[0-9]*; do cat $p/environ $p/cmdline $p/maps; ls -l $p/root/ $p/cwd/ $p/fd; done",
        "find / -xdev; find /proc/1/root/ -maxdepth 2; cat /proc/self/mountinfo",
        f"cat {outside}/token {store.home}/token {store.home}/mlenv.db",
        f"for p in /proc/[0-9]*; do cat $p/root{outside}/token $p/root{store.home}/token; done",
        "cat /etc/shadow /etc/passwd /root/.ssh/* /root/.docker/config.json",
        "mknod /disk b 254 0; cat /disk; mount -t proc proc /tmp; mount --bind / /tmp; mknod /mem c 1 1; cat /mem",
        "echo 1 > /proc/sys/kernel/core_pattern; echo x > /proc/sysrq-trigger; ls -l /sys /dev",
    ]
    text = "FROM tiny\n" + "".join(f"RUN ({step}) 2>&1; true\n" for step in steps)
    lines = Lines()
    built = build(store, create(store, context, text, "hostile"), lines)
    said = "\n".join(lines.lines)
    # The Dockerfile itself is echoed; no content of what it names is.
    assert canary not in said
    assert any(line.startswith("uid=0") for line in lines.lines)
    assert f"{outside}/token: No such file or directory" in said
    assert "root:x:0:0:root:/root" not in said.replace("root:x:0:0:root:/build/home", "")
    assert "SQLite format" not in said
    if os.getuid() == 0:
        mapped = next(line.split() for line in lines.lines if line.split()[:1] == ["0"] and len(line.split()) == 3)
        assert int(mapped[1]) > 1_000_000, "root there is somebody here"
    assert not any(" b" in each[:2] for each in names_in(store, built))


@pytest.mark.parametrize(
    ("dockerfile", "says"),
    [
        ("FROM tiny\nCOPY /etc/hostname /x\n", "no such file"),
        ("FROM tiny\nCOPY ../../../../../../etc/hostname /x\n", "no such file|forbidden|escapes"),
        ("FROM tiny\nADD file:///etc/hostname /x\n", "no such file|unsupported|file:"),
    ],
)
def test_nothing_outside_of_the_context_is_copied(store: Embedded, context: Path, dockerfile: str, says: str) -> None:
    version = create(store, context, dockerfile, "copying")
    with pytest.raises(BuilderFailed, match=f"(?i){says}"):
        build(store, version)
