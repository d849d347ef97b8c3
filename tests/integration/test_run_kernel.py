"""A kernel spec that a real Jupyter client finds, starts, and interrupts."""

import json
import sys
from pathlib import Path

import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import start_new_kernel

from mlenv.core.digest import Digest
from mlenv.core.lock import Artifact, Lock, LockedPackage
from mlenv.core.platform import Platform, Target
from mlenv.core.reference import EnvironmentName, VersionName
from mlenv.run.kernel import NoKernelInside, install_kernel, jupyter_data_directory

#: Stands for `mlenv`: takes `run REFERENCE -- COMMAND`, and runs the command under this interpreter.
_LAUNCHER = """
import os, sys
from mlenv.run.process import leave, run_command
arguments = sys.argv[1:]
assert arguments[:3] == ["run", "train:3", "--"], arguments
environment = dict(os.environ, PATH=os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"])
leave(run_command(arguments[3:], environment=environment))
"""


def _lock(*names: str) -> Lock:
    packages = (
        LockedPackage(each, "1.0", Artifact(f"{each}-1.0-py3-none-any.whl", 1, Digest.of(each.encode()), None))
        for each in names
    )
    return Lock(Target(Platform("linux", "amd64"), "3.11"), tuple(packages), "none")


def test_a_client_starts_runs_and_interrupts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    launcher = tmp_path / "launcher.py"
    launcher.write_text(_LAUNCHER)
    installed = install_kernel(
        EnvironmentName("train"), VersionName("3"), _lock("ipykernel"), launcher=(sys.executable, str(launcher))
    )
    assert KernelSpecManager().find_kernel_specs()[installed.name] == str(installed.directory)
    manager, client = start_new_kernel(kernel_name=installed.name, startup_timeout=60)
    try:
        assert _output(client, "print(1 + 1)") == "2\n"
        # Text that is written at once is sent at once; `print` writes a line and its end. The interruption may come as
        # soon as the text is seen, so that it is inside of `try` that it is written.
        told = "import sys, time\ntry:\n    sys.stdout.write('begun\\n')\n    sys.stdout.flush()\n    time.sleep(600)\n"
        waiting = told + "except KeyboardInterrupt:\n    sys.stdout.write('once\\n')"
        message = client.execute(waiting)
        assert client.get_iopub_msg(timeout=60)
        while (seen := client.get_iopub_msg(timeout=60))["content"].get("text") != "begun\n":
            pass
        manager.interrupt_kernel()
        while (seen := client.get_iopub_msg(timeout=60))["header"]["msg_type"] != "stream":
            pass
        assert (seen["parent_header"]["msg_id"], seen["content"]["text"]) == (message, "once\n")
        assert _output(client, "print('still here')") == "still here\n"
    finally:
        client.stop_channels()
        manager.shutdown_kernel()
    assert not manager.is_alive()


def _output(client: object, code: str) -> str:
    texts: list[str] = []
    reply = client.execute_interactive(  # type: ignore[attr-defined]
        code,
        timeout=60,
        output_hook=lambda message: texts.append(message["content"].get("text", "")),
    )
    assert reply["content"]["status"] == "ok"
    return "".join(texts)


def test_the_spec_starts_this_version_whatever_is_set_later(tmp_path: Path) -> None:
    installed = install_kernel(
        EnvironmentName("train"),
        VersionName("3"),
        _lock("ipykernel", "numpy"),
        display_name="Train (approved)",
        python="/opt/python3.11",
        prefix=tmp_path,
        launcher=("/usr/bin/mlenv",),
        environment={"MLENV_HOME": "/srv/mlenv", "SECRET": "hidden"},
    )
    assert installed.directory == tmp_path / "share" / "jupyter" / "kernels" / "mlenv-train-3"
    assert [each.name for each in installed.directory.iterdir()] == ["kernel.json"]
    spec = json.loads((installed.directory / "kernel.json").read_text())
    assert spec["argv"] == [
        *("/usr/bin/mlenv", "run", "--python", "/opt/python3.11", "train:3", "--"),
        *("python", "-m", "ipykernel_launcher", "-f", "{connection_file}"),
    ]
    assert spec["env"] == {"MLENV_HOME": "/srv/mlenv"}
    assert spec["display_name"] == "Train (approved)"


def test_without_ipykernel_it_says_how_to_add_it(tmp_path: Path) -> None:
    with pytest.raises(NoKernelInside, match=r"train:3.*ipykernel") as caught:
        install_kernel(EnvironmentName("train"), VersionName("3"), _lock("numpy"), prefix=tmp_path)
    assert caught.value.hint is not None
    assert "ipykernel" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_the_data_directory_is_jupyters_own() -> None:
    import os

    from jupyter_core import paths

    assert jupyter_data_directory(os.environ) == Path(paths.jupyter_data_dir())
    assert jupyter_data_directory({"JUPYTER_DATA_DIR": "/srv/jupyter"}) == Path("/srv/jupyter")
    if sys.platform == "linux":
        assert jupyter_data_directory({"HOME": "/home/a"}) == Path("/home/a/.local/share/jupyter")
        assert jupyter_data_directory({"HOME": "/home/a", "XDG_DATA_HOME": "/data"}) == Path("/data/jupyter")
