"""Values: what is shown of those that hold secrets, and what counts when two are compared."""

import pytest
from msgspec import Struct

from mlenv.client.connection import Connection
from mlenv.client.credentials import Login
from mlenv.core.digest import Digest
from mlenv.core.match_spec import MatchSpec
from mlenv.core.spec import CondaFile, Index, Origin, Requirement, WrittenSpec
from mlenv.distribution.auth import _Token
from mlenv.distribution.credentials import Login as RegistryLogin
from mlenv.resolve.conda_channels import Secret
from mlenv.resolve.condarc import CondaSettings
from mlenv.resolve.machine_index import MachineIndex
from mlenv.service.context_builds import ContextOptions

_SECRET = "geheim-1"
_ADDRESS = f"https://user:{_SECRET}@example.org/channel"


@pytest.mark.parametrize(
    "value",
    [
        Connection("https://mlenv.example", _SECRET, None),
        Login("https://mlenv.example", _SECRET),
        _Token(frozenset({"pull"}), 1.0, _SECRET),
        RegistryLogin("ada", _SECRET, _SECRET),
        Secret("https://example.org", "ada", _SECRET, _SECRET, _SECRET),
        CondaSettings(_ADDRESS, (_ADDRESS,), (_ADDRESS,), {"a": _ADDRESS}, {"b": (_ADDRESS,)}, (_ADDRESS,)),
        MachineIndex(Index("https://example.org/simple"), {"UV_INDEX_PASSWORD": _SECRET}),
        ContextOptions(secrets={"token": _SECRET}),
    ],
    ids=lambda each: f"{type(each).__module__}.{type(each).__name__}",
)
def test_no_representation_holds_a_secret(value: Struct) -> None:
    assert any(_SECRET in str(getattr(value, each)) for each in value.__struct_fields__)
    assert type(value).__name__ in repr(value)
    assert _SECRET not in repr(value)


_DIGEST, _OTHER = Digest.of(b"one"), Digest.of(b"two")


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        (Requirement("numpy", Origin("a.txt", 1)), Requirement("numpy"), Requirement("scipy", Origin("a.txt", 1))),
        (CondaFile("{}", "name: x"), CondaFile("{}", "name: x  # y"), CondaFile("[]", "name: x")),
        (WrittenSpec("{}", _DIGEST), WrittenSpec("{ }", _DIGEST), WrittenSpec("{}", _OTHER)),
        (MatchSpec("numpy", "1.*", text="numpy 1"), MatchSpec("numpy", "1.*"), MatchSpec("numpy", text="numpy 1")),
    ],
)
def test_how_it_was_written_does_not_count(one: object, same: object, other: object) -> None:
    assert one == same
    assert hash(one) == hash(same)
    assert one != other
    assert one != "another kind"
    assert {one: 1}[same] == 1
