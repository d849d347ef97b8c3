"""`mlenv run` as its users see it: any file, the second start, what is on stdout, how it ends."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event

import pytest
from support.world import BASE, MINOR, World

VALUE = "import alpha; print(alpha.VALUE)"
OTHER_MINOR = "3.9" if MINOR != "3.9" else "3.10"


def _definition(world: World, kind: str) -> str:
    """A file of one kind, in a directory called as it, that asks for alpha from the world's index."""
    directory = world.directory / kind
    directory.mkdir(exist_ok=True)
    name, text = {
        "environment": ("environment.yml", world.define("of-environment", "alpha", image=None).read_text()),
        "conda": (
            "conda.yml",
            json.dumps({"dependencies": [f"python={MINOR}", {"pip": [f"--index-url {world.index.simple}", "alpha"]}]}),
        ),
        "requirements": ("requirements.txt", f"--index-url {world.index.simple}\nalpha\n"),
    }[kind]
    (directory / name).write_text(text)
    return f"{kind}/{name}"


@pytest.mark.parametrize("kind", ["environment", "conda", "requirements"])
def test_a_file_of_any_kind_runs_at_once(world: World, kind: str) -> None:
    file = _definition(world, kind)
    done = world.run("run", "--file", file, "--", "python", "-c", VALUE)
    assert (done.returncode, done.stdout) == (0, "43\n"), done.stderr
    name = "of-environment" if kind == "environment" else kind
    lines = done.stderr.splitlines()
    assert lines[0] == f"created {name}:1"
    steps = [line.split()[0] for line in lines if " … done in " in line]
    assert steps == ["Resolving", "Fetching", "Unpacking", "Compiling", "Linking"][: len(steps)]
    again = world.run("run", "--file", file, "--", "python", "-c", VALUE)
    assert (again.returncode, again.stdout, again.stderr) == (0, "43\n", f"using {name}:1\n")


@pytest.mark.online
def test_a_pyproject_runs_at_once(world: World) -> None:
    project = '[project]\nname = "p"\nversion = "1"\ndependencies = ["six"]\n'
    (world.directory / "pyproject.toml").write_text(project)
    done = world.run(
        "run", "-f", "pyproject.toml", "-n", "of-project", "--", "python", "-c", "import six; print(six.PY3)"
    )
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
    assert done.stderr.splitlines()[0] == "created of-project:1"


def test_a_pylock_runs_as_it_stands(world: World) -> None:
    world.ok("environment", "create", "-f", str(world.define("for-pylock", "alpha", "beta<2", image=None)))
    done = world.run("environment", "lock", "for-pylock", "--to", "pylock.toml")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert done.stderr.splitlines()[-1] == "wrote pylock.toml"
    done = world.run("run", "--file", "pylock.toml", "--name", "relocked", "--", "python", "-c", VALUE)
    assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr


@pytest.fixture(scope="module")
def ready(world: World) -> str:
    """An environment that is materialised already."""
    variables = {"FROM_SPEC": "spec", "BOTH": "spec"}
    world.ok("environment", "create", "-f", str(world.define("ready", "alpha", environment_variables=variables)))
    assert world.run("run", "ready", "--", "true").returncode == 0
    return "ready"


def _python(world: World, reference: str, code: str, *options: str) -> "subprocess.CompletedProcess[str]":
    return world.run("run", *options, reference, "--", "python", "-c", code)


@pytest.mark.parametrize("reference", ["ready", "ready:1", "ready@latest", "azureml:ready:1"])
def test_the_second_start_says_nothing_of_its_own(world: World, ready: str, reference: str) -> None:
    done = _python(world, reference, "print('out'); import sys; print('err', file=sys.stderr)")
    assert (done.returncode, done.stdout, done.stderr) == (0, "out\n", "err\n")


def test_it_is_a_virtual_environment_with_its_variables(world: World, ready: str) -> None:
    code = (
        "import json, os, sys; print(json.dumps([sys.prefix, os.environ['VIRTUAL_ENV'], os.environ['FROM_SPEC'], "
        "os.environ['BOTH'], os.environ['PATH'].split(':')[0], os.getcwd()]))"
    )
    done = _python(world, ready, code, "--env", "BOTH=mine")
    prefix, active, spec, both, path, directory = json.loads(done.stdout)
    assert (prefix, path, spec, both) == (active, f"{prefix}/bin", "spec", "mine")
    assert Path(prefix).parent == world.home / "prefixes"
    assert directory == str(world.directory.resolve())


@pytest.mark.parametrize("status", [0, 3, 255])
def test_the_exit_status_is_the_commands(world: World, ready: str, status: int) -> None:
    assert _python(world, ready, f"raise SystemExit({status})").returncode == status


def test_a_death_by_signal_is_passed_on(world: World, ready: str) -> None:
    assert _python(world, ready, "import os; os.kill(os.getpid(), 15)").returncode == -signal.SIGTERM


def test_what_follows_the_dashes_is_the_commands(world: World, ready: str) -> None:
    done = world.run("run", ready, "--", "python", "-c", "import sys; print(sys.argv[1:])", "-o", "--", "--name")
    assert done.stdout == "['-o', '--', '--name']\n"


@pytest.mark.parametrize(
    ("command", "status", "error"),
    [
        (["no-such-command"], 127, "error: command not found: 'no-such-command'"),
        (["./missing"], 127, "error: command not found: './missing'"),
        (["/etc"], 126, "error: command '/etc' can't be run: it is a directory"),
    ],
)
def test_a_command_that_cannot_run_ends_as_in_a_shell(
    world: World, ready: str, command: list[str], status: int, error: str
) -> None:
    done = world.run("run", ready, "--", *command)
    assert (done.returncode, done.stdout, done.stderr.splitlines()[0]) == (status, "", error)


@pytest.mark.parametrize(
    ("arguments", "status", "error", "hint"),
    [
        (["run"], 2, "no environment is named", "hint: write NAME, NAME:VERSION or NAME@LABEL, or use --file FILE"),
        (["run", "ready"], 2, "nothing to run", "hint: put the command after `--`"),
        (["run", "ready", "python", "train.py"], 2, "one argument too many: 'python'", "hint: put the command after"),
        (["run", "ready", "--pyton", "3", "--", "true"], 2, "mlenv run has no option '--pyton'", "hint: did you mean"),
        (["run", "ready", "--env", "X", "--", "true"], 2, "--env: 'X' is not KEY=VALUE", ""),
        (["run", "red", "--", "true"], 1, "no environment is named 'red'", "hint: did you mean 'ready'?"),
        (["run", "ready:9", "--", "true"], 1, "environment 'ready' has no version '9'", "hint: its only version is 1"),
        (["run", "-f", "no.yml", "--", "true"], 1, "no.yml: no such file", "hint: a relative path is taken from"),
        (["run", "ready", "--python", "/no", "--", "true"], 1, "Python '/no' can't be used", "hint: give the path"),
        (["run", "ready", "--python", OTHER_MINOR, "--", "true"], 1, "", "hint: "),
        (["run", "ready", "--engine", "vm", "--", "true"], 2, "argument --engine: invalid choice: 'vm'", "hint: see"),
    ],
)
def test_refusals_say_what_and_what_to_do(
    world: World, ready: str, arguments: list[str], status: int, error: str, hint: str
) -> None:
    done = world.run(*arguments)
    assert (done.returncode, done.stdout) == (status, "")
    lines = done.stderr.splitlines()
    assert lines[0].startswith(f"error: {error}"), done.stderr
    assert not hint or lines[-1].startswith(hint), done.stderr


def test_versions_without_packages_say_where_they_run(world: World) -> None:
    world.ok("environment", "create", "-n", "bare", "-i", "example.org/x:1")
    done = world.run("run", "bare", "--", "true")
    assert done.returncode == 1
    assert done.stderr == (
        "error: bare:1 is an image (example.org/x:1), without packages of its own\n"
        "hint: run it in a container: `--engine container`\n"
    )


def test_a_python_may_be_named(world: World, ready: str) -> None:
    done = _python(world, ready, "import sys; print(sys.version_info[:2])", "--python", sys.executable)
    assert (done.returncode, done.stdout) == (0, f"{tuple(sys.version_info[:2])}\n"), done.stderr


def test_without_an_engine_a_container_run_says_what_to_install(world: World, ready: str, tmp_path: Path) -> None:
    world.environment = {"PATH": str(tmp_path)}
    try:
        done = world.run("run", ready, "--engine", "container", "--", "true")
    finally:
        world.environment = {}
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == (
        "error: no container engine answers: podman: not installed; docker: not installed"
    )
    assert "--engine local" in done.stderr.splitlines()[-1]


def test_an_index_that_is_not_there_is_named(world: World) -> None:
    path = world.directory / "unreachable.txt"
    path.write_text("--index-url http://127.0.0.1:9/simple\nalpha\n")
    world.environment = {"UV_HTTP_RETRIES": "0"}
    try:
        done = world.run("run", "-f", "unreachable.txt", "-n", "unreachable", "--", "true")
    finally:
        world.environment = {}
    assert done.returncode == 1
    error = next(line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert "http://127.0.0.1:9/simple/alpha/" in error
    assert done.stderr.splitlines()[-1].startswith("hint: check the network")


# interrupted


@contextmanager
def _silent_index() -> Iterator[tuple[str, socket.socket]]:
    """An index that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/simple", server


def test_control_c_while_resolving_ends_it_and_uv(fresh_world: World) -> None:
    with _silent_index() as (url, server):
        (fresh_world.directory / "r.txt").write_text(f"--index-url {url}\nalpha\n")
        process = fresh_world.start("run", "-f", "r.txt", "-n", "slow", "--", "true", start_new_session=True)
        connection, _ = server.accept()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        # uv has ended, too: its end of the connection is closed.
        connection.settimeout(30)
        while connection.recv(65536):
            pass
        connection.close()
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "error: interrupted"
    fresh_world.verify()
    assert list((fresh_world.home / "work").iterdir()) == []


@pytest.mark.parametrize("package", ["beta", "alpha"], ids=["one", "with what it needs"])
@pytest.mark.parametrize("command", ["run", "build"])
def test_control_c_while_fetching_leaves_nothing_half_done(fresh_world: World, command: str, package: str) -> None:
    reached, go_on = Event(), Event()

    def wait(filename: str) -> None:
        reached.set()
        go_on.wait(30)

    fresh_world.ok("base", "import", "oci:base", "--name", BASE)
    file = fresh_world.define("fetch", package, image=None if command == "run" else BASE)
    words = ("environment", "build", "fetch:1") if command == "build" else ("run", "fetch:1", "--", "true")
    fresh_world.ok("environment", "create", "-f", str(file))
    fresh_world.ok("environment", "lock", "fetch:1")
    fresh_world.index.before = wait
    process = fresh_world.start(*words, start_new_session=True)
    assert reached.wait(30)
    process.send_signal(signal.SIGINT)
    # It has ended while nothing comes.
    out, err = process.communicate(timeout=20)
    go_on.set()
    assert (process.returncode, out) == (130, ""), err
    assert err.splitlines()[-1] == "error: interrupted"
    fresh_world.index.before = None
    fresh_world.verify()
    assert fresh_world.run(*words).returncode == 0


# shell


@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
def test_a_shell_has_the_environment_a_prompt_and_its_exit_status(
    world: World, ready: str, shell: str, tmp_path: Path
) -> None:
    import pty

    (tmp_path / ".bashrc").write_text("PS1='mine> '\nPATH=/nowhere:$PATH\n")
    code = "import sys\nfrom mlenv.cli.main import main\nsys.exit(main(['shell', 'ready']))\n"
    environment = {**os.environ, "MLENV_HOME": str(world.home), "SHELL": shell, "TERM": "dumb", "PS1": "here> "}
    environment["HOME"] = str(tmp_path)
    process, terminal = pty.fork()
    if process == 0:
        os.execve(sys.executable, [sys.executable, "-c", code], environment)
    seen = b""
    os.write(terminal, b"python -c 'import alpha; print(alpha.VALUE + 1)'\nexit 7\n")
    # Linux says by an error that the other end of a terminal is closed.
    with suppress(OSError):
        while chunk := os.read(terminal, 4096):
            seen += chunk
    os.close(terminal)
    _, status = os.waitpid(process, 0)
    text = seen.decode().replace("\r\n", "\n")
    assert os.waitstatus_to_exitcode(status) == 7, text
    assert "this is ready:1; leave it with `exit`\n" in text
    assert ("(ready:1) mine> " if shell.endswith("bash") else "(ready:1) here> ") in text
    assert re.search(r"(^|> )44$", text, re.MULTILINE), text
