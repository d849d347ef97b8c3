import pytest

from mlenv.core.digest import Digest
from mlenv.core.lock import Artifact, InvalidLock

_DIGEST = Digest.of(b"wheel")


@pytest.mark.parametrize("name", ["", ".", "..", "../evil.whl", "a/b.whl", "a\\b.whl", "a\0.whl", "a\n.whl"])
def test_an_artifact_has_the_name_of_a_file(name: str) -> None:
    with pytest.raises(InvalidLock, match="which is no file name"):
        Artifact(name, 1, _DIGEST, None)


def test_an_artifact_has_a_size() -> None:
    with pytest.raises(InvalidLock, match=r"gives a-1-py3-none-any.whl the size -1"):
        Artifact("a-1-py3-none-any.whl", -1, _DIGEST, None)
