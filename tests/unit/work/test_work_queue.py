"""Whether the queue's database answers: asked before anything is put in, and without its engine."""

import socket
from pathlib import Path

import pytest

from mlenv.core.scope import ScopeKey
from mlenv.work.queue import DurableQueue, QueueUnavailable, Task, TaskKind


def test_a_queue_that_is_not_there_yet_is_no_fault(tmp_path: Path) -> None:
    DurableQueue(tmp_path, None).check()
    assert list(tmp_path.iterdir()) == []


def test_a_queue_that_answers_and_one_that_is_damaged(tmp_path: Path) -> None:
    queue = DurableQueue(tmp_path, None)
    try:
        queue.put(Task(TaskKind.BUILD, ScopeKey("default"), "one"))
        queue.check()
    finally:
        queue.close()
    for each in tmp_path.glob("queue.db*"):
        each.write_bytes(b"no database" * 1000)
    with pytest.raises(QueueUnavailable, match="not a database"):
        queue.check()
    queue.close()


def test_a_database_server_that_is_gone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        unused_port = taken.getsockname()[1]
    queue = DurableQueue(Path("unused"), f"postgresql+psycopg://ada:hunter2@127.0.0.1:{unused_port}/mlenv")
    with pytest.raises(QueueUnavailable) as caught:
        queue.check()
    assert "hunter2" not in str(caught.value)
    queue.close()
