"""
The OpenAPI document is true, and nothing that comes in makes the server fail.

Every operation is called with data that its description allows, and with data that it does not; each answer must be one
that is described, in the form that is described. Bounded in time: what is called is drawn anew in each run, and a
failure says how to repeat it.
"""

import time
import traceback
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, Final

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from support.server import InProcess, in_process

#: Seconds for all operations together, about.
_TIME: Final = 35.0
#: How often an operation is called, in rounds, as long as there is time. Drawing data takes longer than calling.
_ROUND: Final = 4
_ROUNDS: Final = 4
#: The longest address that the client sends; drawn ones are seldom longer.
_LONGEST_URL: Final = 65_536
_CHECKS: Final = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
#: Names that are there, so that calls reach beyond the first look-up.
_KNOWN: Final = {
    "workspace": "default",
    "registry": "shared",
    "name": "known",
    "version": "1",
    "label": "production",
    "os": "linux",
    "architecture": "amd64",
}


@schemathesis.serializer("application/toml")
def _toml(context: schemathesis.SerializationContext, value: Any) -> bytes:
    """A lock is text; what is drawn is sent as it is."""
    return _bytes(value)


@pytest.fixture
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    """An application with a little of everything in it."""
    with in_process(tmp_path_factory.mktemp("site"), upload_rate=0) as found:
        client = found.client
        assert client.post("/api/v1/registries", json={"name": "shared"}).status_code == 201
        for base in ("/api/v1/workspaces/default", "/api/v1/registries/shared"):
            environments = f"{base}/environments"
            assert client.post(environments, json={"name": "known", "spec": {"image": "x"}}).status_code == 201
            labelled = client.put(f"{environments}/known/labels/production", json={"version": "1"})
            assert labelled.status_code == 200
        yield found


@pytest.mark.filterwarnings("ignore")
def test_every_native_route_is_as_it_is_described(api: InProcess) -> None:
    document = api.client.get("/api/v1/openapi.json").json()
    schema = schemathesis.openapi.from_dict(document)
    operations: list[Any] = [each.ok() for each in schema.get_all_operations()]  # type: ignore[union-attr]
    assert len(operations) > 30
    end, called = time.monotonic() + _TIME, 0
    faults: list[str] = []
    for number, operation in enumerate(operations):
        # What one operation leaves of its share is for the others.
        share = (end - time.monotonic()) / (len(operations) - number)
        for mode, part in ((GenerationMode.POSITIVE, 0.6), (GenerationMode.NEGATIVE, 0.4)):
            try:
                called += _try(api, operation, mode, time.monotonic() + share * part)
            except (BaseExceptionGroup, AssertionError, schemathesis.errors.SchemathesisError) as error:
                faults.append(f"{operation.label}, {mode.value}:\n{''.join(traceback.format_exception_only(error))}")
    assert not faults, "\n\n".join(faults)
    assert called > 4 * len(operations)


def _try(api: InProcess, operation: Any, mode: GenerationMode, until: float) -> int:
    """Call an operation with generated data, until that time; gives how often it was called."""
    positive = mode is GenerationMode.POSITIVE
    if not positive and not (operation.body or operation.query or operation.headers or operation.path_parameters):
        return 0
    called = 0

    @settings(
        max_examples=_ROUND,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(case=operation.as_strategy(generation_mode=mode), known=st.integers(0, 3))
    def call(case: Case[Any], known: int) -> None:
        nonlocal called
        if positive and known:
            case.path_parameters = {
                name: _KNOWN.get(name, value) for name, value in (case.path_parameters or {}).items()
            }
        called += 1
        _call(api, case, [*_CHECKS, *([] if positive else [negative_data_rejection])])

    for _ in range(_ROUNDS):
        call()
        if time.monotonic() > until:
            break
    return called


def _call(api: InProcess, case: Case[Any], checks: list[Any]) -> None:
    asked = requests.Request(**case.as_transport_kwargs(base_url="https://127.0.0.1")).prepare()
    assume(len(str(asked.url)) <= _LONGEST_URL)
    headers = [(name.encode(), _bytes(value)) for name, value in asked.headers.items()]
    answer = api.client.request(str(asked.method), str(asked.url), headers=headers, content=_bytes(asked.body or b""))
    # That no registry answers here is no failure of the server's own.
    assume(answer.status_code != 503 or answer.json()["code"] != "RegistryUnreachable")
    answer.elapsed = timedelta(0)
    case.validate_response(answer, checks=checks)


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
