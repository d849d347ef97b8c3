"""An error becomes a problem document, and of that the same error again."""

import json

import pytest

from mlenv.api.wire import InvalidBody, read
from mlenv.api.wire_problems import Problem, error_of
from mlenv.core.digest import InvalidDigest
from mlenv.core.reference import EnvironmentName, InvalidName, LabelName, VersionName
from mlenv.core.refusals import (
    ComputedLabel,
    EnvironmentArchived,
    EnvironmentNotFound,
    LabelNotFound,
    VersionChanged,
    VersionConflict,
    VersionNotFound,
)
from mlenv.core.spec import Requirement, Spec
from mlenv.errors import Conflict, InvalidInput, MlenvError, NotAuthenticated, NotFound, Unavailable
from mlenv.resolve.conda_failures import (
    ChannelNotFound,
    ChannelRefused,
    ChannelUnreachable,
    MissingVirtualPackage,
    NotForPlatform,
    PackageNotFound,
    ShadowedByChannel,
)
from mlenv.resolve.failures import ResolutionFailed
from mlenv.resolve.failures import VersionConflict as ExcludeEachOther
from mlenv.server.problems import problem_of, write_problem
from mlenv.service.environments import InvalidText, NoVersions
from mlenv.service.locking import LockDiffers

NAME, VERSION = EnvironmentName("a"), VersionName("1")
ERRORS: list[MlenvError] = [
    EnvironmentNotFound(NAME, ["aa", "b"]),
    EnvironmentNotFound(NAME),
    VersionNotFound(NAME, VERSION, ["9", "8"]),
    LabelNotFound(NAME, LabelName("x"), ["y"]),
    ComputedLabel(),
    VersionConflict(NAME, VERSION, stored=Spec(image="x"), given=Spec(requirements=(Requirement("six"),))),
    EnvironmentArchived(NAME, VERSION),
    VersionChanged(NAME, VERSION),
    InvalidName("an environment name", "a b"),
    InvalidDigest("md5:x"),
    InvalidText("the tags", "are too many"),
    NoVersions(NAME),
    LockDiffers("locked already"),
]


def told(error: BaseException) -> Problem:
    problem = problem_of(error)
    assert problem is not None
    return read(Problem, bytes(write_problem(problem).body))


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_client_raises_what_the_server_raised(error: MlenvError) -> None:
    again = error_of(told(error))
    assert type(again) is type(error)
    assert isinstance(again, MlenvError)
    assert (str(again), again.hint, vars(again) | {"hint": 0, "detail": 0}) == (
        str(error),
        error.hint,
        vars(error) | {"hint": 0, "detail": 0},
    )
    if isinstance(error, VersionConflict):
        assert isinstance(again, VersionConflict)
        assert again.difference == error.difference != []


def test_why_conda_packages_have_no_solution_is_known_again() -> None:
    missing = PackageNotFound("no `sklearn`", chain=("sklearn",), hint="write it", verified=True, detail="the tree")
    missing.project, missing.near, missing.elsewhere, missing.renamed_to = "sklearn", ("scikit-learn",), ("ours",), None
    foreign = NotForPlatform("not for linux-64", chain=("deep", "arm"))
    foreign.project, foreign.platforms = "arm", ("linux-aarch64",)
    behind = ShadowedByChannel("only two has it")
    behind.project, behind.channel = "num", "two"
    cuda = MissingVirtualPackage("the target has no __cuda")
    cuda.project, cuda.offered = "__cuda", None
    clash = ExcludeEachOther("num=2 and num=1 exclude each other", chain=("num=2", "num=1"))
    errors: list[ResolutionFailed] = [missing, foreign, behind, cuda, clash]
    for error in errors:
        again = error_of(told(error))
        assert isinstance(again, ResolutionFailed)
        assert type(again) is type(error)
        assert (str(again), again.hint, again.detail) == (str(error), error.hint, error.detail)
        facts = vars(error).keys() - {"lines", "verified"}
        assert {name: getattr(again, name) for name in facts} == {name: getattr(error, name) for name in facts}


@pytest.mark.parametrize(
    "error",
    [
        ChannelUnreachable("https://conda.example.org/x", "connection refused", detail="at length"),
        ChannelNotFound("https://conda.example.org/x", detail="at length"),
        ChannelRefused("https://conda.example.org/x", 401, detail="at length"),
    ],
    ids=lambda each: type(each).__name__,
)
def test_a_channel_s_failure_is_known_again(error: ChannelUnreachable | ChannelNotFound | ChannelRefused) -> None:
    again = error_of(told(error))
    assert isinstance(again, type(error))
    assert (str(again), again.url, again.hint, again.detail) == (str(error), error.url, error.hint, "at length")


def test_several_faults_are_a_group_again() -> None:
    again = error_of(told(ExceptionGroup("two", [InvalidText("a", "is bad"), ComputedLabel()])))
    assert isinstance(again, ExceptionGroup)
    assert [type(each) for each in again.exceptions] == [InvalidText, ComputedLabel]
    assert str(again.exceptions[0]) == "a is bad"


@pytest.mark.parametrize(
    ("document", "branch"),
    [
        ({"code": "Newer", "branch": "Conflict", "status": 409}, Conflict),
        ({"code": "Newer", "status": 404}, NotFound),
        ({"code": "EnvironmentNotFound", "branch": "NotFound", "status": 404, "facts": {"name": 1}}, NotFound),
        ({"code": "VersionConflict", "branch": "Conflict", "facts": {"stored": {"evil": 1}}}, Conflict),
        ({"code": "EnvironmentNotFound", "branch": "Conflict", "status": 409}, Conflict),
        ({"code": "not a class", "status": 400}, InvalidInput),
        ({"code": "KeyboardInterrupt", "status": 401}, NotAuthenticated),
        ({"status": 500}, Unavailable),
        ({}, Unavailable),
    ],
)
def test_what_is_not_known_or_not_whole_keeps_its_branch(document: dict[str, object], branch: type[MlenvError]) -> None:
    again = error_of(read(Problem, json.dumps({"detail": "what", **document})))
    assert isinstance(again, branch)
    assert not isinstance(again, EnvironmentNotFound | VersionConflict | KeyboardInterrupt)
    assert str(again) == "what"


def test_what_is_no_problem_document_is_refused() -> None:
    with pytest.raises(InvalidBody):
        read(Problem, "<html>")
