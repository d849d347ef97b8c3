"""Programs of others that tests start."""

import subprocess
from typing import Any


def end(process: "subprocess.Popen[Any]", timeout: float) -> None:
    """Ask a process to end; kill it if it takes longer than `timeout` seconds."""
    process.terminate()
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
