import os
import sys
from pathlib import Path

import pytest

from mlenv.run.links import make_durable


def test_what_was_written_is_made_durable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    make_durable(tmp_path)
    assert (tmp_path / "file").read_bytes() == b"content"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux syncs one file system alone")
def test_where_one_file_system_cannot_be_synced_all_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    monkeypatch.setattr(os, "sync", lambda: synced.append(True))
    make_durable(tmp_path)
    assert synced == [True]
