from mlenv.core.digest import Digest
from mlenv.core.lock import Lock
from mlenv.core.platform import Platform, Target

_LOCK = Lock(Target(Platform("linux", "amd64"), "3.11.2"), (), "uv 0.9.0")


def test_a_kept_lock_is_named_by_the_bytes_that_were_kept() -> None:
    text = _LOCK.to_pylock().replace("\n", "  # as another TOML writer has it\n", 1)
    kept = Lock.kept(text)
    assert kept == _LOCK
    assert kept.to_pylock() == text
    assert kept.digest == Digest.of(text.encode())
    assert Lock.from_pylock(text).digest == _LOCK.digest
