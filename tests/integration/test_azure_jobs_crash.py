"""Jobs whose server dies, or is told to stop, while they wait or run."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from support.server import Server, run_server, wait_until

_WORKSPACE = (
    "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/local"
    "/providers/Microsoft.MachineLearningServices/workspaces/default"
)


def _environment(server: Server) -> None:
    body = {"properties": {"image": "example.org/base:1", "isAnonymous": False, "isArchived": False}}
    with server.client() as http:
        assert http.put(f"{_WORKSPACE}/environments/bare/versions/1", json=body).status_code == 201


def _submit(server: Server, name: str, command: str, **variables: str) -> None:
    properties = {
        "jobType": "Command",
        "command": command,
        "environmentId": "bare:1",
        "environmentVariables": variables,
    }
    with server.client() as http:
        assert http.put(f"{_WORKSPACE}/jobs/{name}", json={"properties": properties}).status_code == 201


def _job(server: Server, name: str) -> dict[str, Any]:
    with server.client() as http:
        found: dict[str, Any] = http.get(f"/api/v1/workspaces/default/jobs/{name}").json()
        return found


def _ended(server: Server, name: str) -> dict[str, Any]:
    wait_until(
        lambda: _job(server, name)["status"] in {"Completed", "Failed", "Canceled"}, f"{name} does not end", 60, server
    )
    return _job(server, name)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_running_command_dies_with_its_worker_and_is_not_run_again(tmp_path: Path) -> None:
    marker = tmp_path / "begun"
    with run_server(tmp_path, workers=1) as server:
        _environment(server)
        _submit(server, "long", "echo $$ >> $MARKER; sleep 600 & wait", MARKER=str(marker))
        _submit(server, "waiting", "echo done")
        wait_until(lambda: marker.exists() and marker.read_text().strip(), "the command does not run", 30, server)
        pid = int(marker.read_text())
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
        wait_until(lambda: not _is_alive(pid), "the command outlives its worker", 20)
        server.start()
        long = _ended(server, "long")
        assert long["status"] == "Failed"
        assert "was not run again" in long["error"]
        waiting = _ended(server, "waiting")
        assert (waiting["status"], waiting["exit_code"]) == ("Completed", 0)
        assert marker.read_text().split() == [str(pid)]
        wait_until(lambda: not list((server.home / "jobs").iterdir()), "directories of jobs stay", 10)
        with server.client() as http:
            assert "running:" in http.get("/api/v1/workspaces/default/jobs/long/logs").text


def test_what_waits_is_run_by_the_workers_that_come(tmp_path: Path) -> None:
    with run_server(tmp_path, workers=0) as server:
        _environment(server)
        for number in range(5):
            _submit(server, f"job-{number}", f"echo number {number}")
        with server.client() as http:
            assert http.post(f"{_WORKSPACE}/jobs/job-3/cancel").status_code == 200
        server.stop()
    with run_server(tmp_path, workers=2) as again:
        again.token = server.token
        found = [_ended(again, f"job-{number}") for number in range(5)]
    assert [each["status"] for each in found] == ["Completed"] * 3 + ["Canceled", "Completed"]
    assert [each["attempts"] for each in found] == [1, 1, 1, 0, 1]


@pytest.mark.parametrize("number", [signal.SIGTERM])
def test_a_server_that_stops_leaves_no_process_behind(tmp_path: Path, number: signal.Signals) -> None:
    marker = tmp_path / "begun"
    with run_server(tmp_path, "--shutdown-timeout", "3", workers=1) as server:
        _environment(server)
        _submit(server, "long", "echo $$ >> $MARKER; sleep 600", MARKER=str(marker))
        wait_until(lambda: marker.exists() and marker.read_text().strip(), "the command does not run", 30, server)
        pid = int(marker.read_text())
        server.process.send_signal(number)
        server.process.wait(30)
        wait_until(lambda: not _is_alive(pid), "the command outlives its worker", 20)
