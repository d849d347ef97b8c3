"""What a server answers to what goes wrong."""

import errno
import json
from typing import Any

import pytest
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from mlenv.core.access import NotAllowed, Operation, Role
from mlenv.core.digest import Digest
from mlenv.core.reference import EnvironmentName, VersionName
from mlenv.core.refusals import VersionChanged
from mlenv.errors import Conflict, InvalidInput, MlenvError, NotFound, Unavailable
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
