import pytest

from mlenv.core.spec import PUBLIC, Index, Sources
from mlenv.resolve.machine_index import InvalidMachineIndex, machine_index

_URL = "https://mirror.example.org/simple"


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({"UV_DEFAULT_INDEX": _URL, "PIP_INDEX_URL": "https://other.example.org/"}, "mlenv-default"),
        ({"UV_DEFAULT_INDEX": f"corp={_URL}"}, "corp"),
        ({"UV_INDEX_URL": _URL}, "mlenv-default"),
        ({"UV_DEFAULT_INDEX": " ", "PIP_INDEX_URL": f"{_URL}\n"}, "mlenv-default"),
    ],
)
def test_the_mirror_is_where_uv_and_pip_look_for_it(variables: dict[str, str], name: str) -> None:
    found = machine_index(variables)
    assert found is not None
    assert found.index == Index(_URL, name)
    assert found.credentials == {}
    assert found.fill(PUBLIC) == Sources(default=found.index)
    own = Sources(default=Index("https://own.example.org/"))
    assert found.fill(own) == own
    assert found.fill(Sources(no_index=True)) == Sources(no_index=True)


def test_credentials_are_taken_out_of_the_address() -> None:
    found = machine_index({"PIP_INDEX_URL": "https://me%40corp:p%3Ass@mirror.example.org/simple"})
    assert found is not None
    assert found.index.url == _URL
    assert found.credentials == {
        "UV_INDEX_MLENV_DEFAULT_USERNAME": "me@corp",
        "UV_INDEX_MLENV_DEFAULT_PASSWORD": "p:ss",
    }
    assert "p:ss" not in repr(found)
    assert "p%3Ass" not in repr(found)


def test_no_mirror() -> None:
    assert machine_index({"UV_INDEX_FEED_PASSWORD": "x"}) is None


@pytest.mark.parametrize(
    "value", ["mirror", "ftp://canary@example.org/", "https://", "https://canary:x@[", "https://a b.example.org/canary"]
)
def test_what_is_no_address_is_refused_without_being_shown(value: str) -> None:
    with pytest.raises(InvalidMachineIndex, match="UV_DEFAULT_INDEX is not the address") as caught:
        machine_index({"UV_DEFAULT_INDEX": value})
    assert "canary" not in str(caught.value)
