"""What a server answers to what goes wrong."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from mlenv.core.access import NotAllowed, Operation, Role
from mlenv.core.conda_archive import InvalidCondaArchive
from mlenv.core.digest import Digest
from mlenv.core.jobs import JobEnded, JobStatus
from mlenv.core.platform import Platform
from mlenv.core.reference import EnvironmentName, VersionName
from mlenv.core.refusals import VersionChanged
from mlenv.core.site_policy import AddressNotListed
from mlenv.core.spec import Origin, Requirement
from mlenv.errors import Conflict, InvalidInput, MlenvError, NotFound, Unavailable
from mlenv.resolve.conda import UnusableRecord
from mlenv.resolve.conda_channels import InvalidChannel
from mlenv.resolve.conda_credentials import InvalidCredentialFile
from mlenv.resolve.conda_failures import ChannelNotFound, ChannelRefused, ChannelUnreachable, PackageNotFound
from mlenv.resolve.conda_process import CondaCrashed, CondaMissing, CondaTimeout
from mlenv.resolve.conda_request import NoCondaPlatform
from mlenv.resolve.condarc import InvalidCondarc
from mlenv.resolve.failures import CredentialsRefused, InvalidRequirement
from mlenv.server.problems import MEDIA_TYPE, Problem, Problems, problem_of, write_problem
from mlenv.service.site import UnknownToken
from mlenv.store.database import StoreBusy, StoreDamaged
from mlenv.store.oci import BlobNotFound


def _problem(error: BaseException) -> Problem:
    found = problem_of(error)
    assert found is not None
    return found


def _document(problem: Problem) -> Any:
    return json.loads(bytes(write_problem(problem).body))


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidInput("no"), 400),
        (UnknownToken("no token was shown"), 401),
        (NotAllowed("ada", Operation.ENVIRONMENT_WRITE, "vision", Role.CONTRIBUTOR), 403),
        (NotFound("no"), 404),
        (Conflict("no"), 409),
        (VersionChanged(EnvironmentName("iris"), VersionName("3")), 412),
        (Unavailable("no"), 503),
        (MlenvError("no"), 500),
        (OSError(errno.ENOSPC, "No space left on device", "/srv/secret"), 507),
    ],
)
def test_each_branch_of_the_error_tree_has_a_status(error: Exception, status: int) -> None:
    assert _problem(error).status == status


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (PackageNotFound("conda.yml:5: nosuch: there is no package `nosuch` in main"), 422),
        (ChannelNotFound("nowhere (https://conda.example.org/nowhere)"), 422),
        (InvalidChannel("a b", "neither a name nor an address"), 400),
        (NoCondaPlatform(Platform("darwin", "arm64")), 400),
        (InvalidCondaArchive("num-1.0-0.conda", "its metadata names another package"), 400),
        (AddressNotListed("file:///etc", "it is not among the channels"), 403),
        (ChannelUnreachable("https://conda.example.org/forge", "connection refused"), 503),
        (CondaTimeout("solving conda packages", 600), 504),
        (ChannelRefused("https://conda.example.org/forge", 401), 502),
        (CredentialsRefused("https://index.example.org/simple", 403), 502),
        (UnusableRecord("https://conda.example.org/forge/noarch/num-1.0-0.conda", "it has no sha256"), 502),
        (CondaCrashed("was ended by SIGABRT", "panicked at /srv/secret/lib.rs"), 502),
        (CondaMissing("No module named rattler, in /srv/secret"), 502),
        (InvalidCondarc("/srv/secret/.condarc: channels", "expected text on one line"), 502),
        (InvalidCredentialFile(Path("/srv/secret/auth.json"), "not JSON"), 502),
        (JobEnded("train", JobStatus.COMPLETED), 409),
    ],
    ids=lambda each: type(each).__name__,
)
def test_whose_fault_it_is_is_told_by_the_status(error: MlenvError, status: int) -> None:
    problem = _problem(error)
    assert problem.status == status
    assert ("Retry-After" in problem.headers) == (status == 503)
    assert "WWW-Authenticate" not in problem.headers
    assert "/srv/secret" not in json.dumps(_document(problem))


def test_lines_that_are_no_conda_packages_are_told_one_by_one() -> None:
    lines = [Requirement(f"num=>{at}", Origin("conda.yml", at)) for at in (5, 6)]
    problem = _problem(ExceptionGroup("2 lines", [InvalidRequirement(each, "it is no version") for each in lines]))
    assert problem.status == 422
    assert [each["detail"] for each in _document(problem)["errors"]] == [
        "conda.yml:5: num=>5: it is no version",
        "conda.yml:6: num=>6: it is no version",
    ]


def test_a_problem_document_says_what_is_wrong_and_what_to_do() -> None:
    error = VersionChanged(EnvironmentName("iris"), VersionName("3"))
    response = write_problem(_problem(error))
    assert response.media_type == MEDIA_TYPE
    document = json.loads(bytes(response.body))
    assert document["detail"] == str(error)
    assert document["hint"] == error.hint
    assert (document["status"], document["title"], document["code"]) == (412, "Precondition Failed", "VersionChanged")


def test_who_is_unknown_is_told_how_to_say_who_they_are() -> None:
    assert _problem(UnknownToken("no token was shown")).headers["WWW-Authenticate"].startswith("Bearer")


def test_what_does_not_answer_may_be_asked_again() -> None:
    assert int(_problem(StoreBusy("/srv/mlenv.db")).headers["Retry-After"]) > 0


@pytest.mark.parametrize(
    "error", [StoreBusy("/srv/secret/mlenv.db"), StoreDamaged("/srv/secret/mlenv.db", "it is torn")]
)
def test_what_a_store_says_of_its_files_is_not_told(error: MlenvError) -> None:
    assert "/srv" not in json.dumps(_document(_problem(error)))


def test_a_missing_blob_is_named_and_its_directory_is_not(tmp_path: Any) -> None:
    digest = Digest.of(b"x")
    detail = _problem(BlobNotFound(digest, tmp_path)).detail
    assert str(digest) in detail
    assert str(tmp_path) not in detail


def test_credentials_in_addresses_are_not_shown() -> None:
    assert "hunter2" not in _problem(Unavailable("https://ada:hunter2@example.org/simple did not answer")).detail


def test_several_errors_are_one_problem_with_all_of_them() -> None:
    group = ExceptionGroup("two", [InvalidInput("the first"), ExceptionGroup("one", [Conflict("the second")])])
    problem = _problem(group)
    assert problem.status == 409
    assert [each["detail"] for each in _document(problem)["errors"]] == ["the first", "the second"]


def test_an_error_nobody_raised_on_purpose_is_none_even_in_a_group() -> None:
    assert problem_of(KeyError("x")) is None
    assert problem_of(ExceptionGroup("two", [InvalidInput("the first"), KeyError("x")])) is None


def test_a_wrong_body_is_answered_with_the_path_to_what_is_wrong() -> None:
    error = RequestValidationError(
        [
            {
                "type": "missing",
                "loc": ("body", "packages", 0, "name"),
                "msg": "Field required",
                "input": {"p": "hunter2"},
            }
        ]
    )
    document = _document(_problem(error))
    assert document["errors"] == [{"detail": "Field required", "in": "body", "path": "packages[0].name"}]
    assert document["status"] == 400
    assert "hunter2" not in json.dumps(document)


def test_text_that_is_no_unicode_can_be_answered() -> None:
    assert _document(_problem(InvalidInput("not a name: \udcff")))["detail"] == "not a name: ?"


def _azure(problem: Problem) -> Response:
    return Response(json.dumps({"error": {"code": problem.code, "message": problem.detail}}), problem.status)


@pytest.mark.parametrize(
    ("path", "in_dialect"),
    [
        ("/subscriptions/x", True),
        ("/Subscriptions", True),
        ("/api/v1/subscriptions", False),
        ("/subscriptionsx", False),
    ],
)
def test_a_dialect_is_known_by_the_first_part_of_the_path(path: str, in_dialect: bool) -> None:
    problems = Problems({"subscriptions": _azure})
    response = problems.respond({"path": path}, Problem(404, "NoSuchRoute", "nothing"))
    assert ("error" in json.loads(bytes(response.body))) is in_dialect


def test_what_nobody_expected_says_only_which_request_it_was(caplog: pytest.LogCaptureFixture) -> None:
    scope = {"path": "/api/v1/whoami", "state": {"request_id": "0123456789abcdef"}}
    response = Problems().answer(scope, RuntimeError("password hunter2"))
    document = json.loads(bytes(response.body))
    assert document["status"] == 500
    assert document["request"] == "0123456789abcdef"
    assert "hunter2" not in json.dumps(document)
    assert "hunter2" in caplog.text


def test_statuses_of_the_framework_keep_their_headers() -> None:
    problem = _problem(HTTPException(405, headers={"Allow": "GET, PUT"}))
    assert problem.headers["Allow"] == "GET, PUT"
    assert "GET, PUT" in problem.detail


def test_a_value_that_no_database_takes_is_the_callers_fault() -> None:
    from mlenv.store.database import UnstorableValue

    problem = problem_of(UnstorableValue("name has a NUL character"))
    assert problem is not None
    assert (problem.status, "NUL" in problem.detail) == (400, True)


@pytest.mark.parametrize(
    ("given", "hint"), [(3.9, ": put it in quotes"), (5, ": put it in quotes"), (None, ""), ({}, "")]
)
def test_a_number_in_the_place_of_a_text_is_told_to_want_quotes(given: object, hint: str) -> None:
    said = {"type": "string_type", "loc": ("body", "tags", "Python"), "msg": "not a string", "input": given}
    assert _document(_problem(RequestValidationError([said])))["detail"] == f"body tags.Python: not a string{hint}"
