"""
Errors as problem documents (RFC 9457), and problem documents as errors: a client raises what the server raised.

`mlenv.server.problems` writes the documents, with the members that `error_members` gives.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from mlenv.api.wire_spec import SpecBody
from mlenv.core import refusals
from mlenv.core.redact import redact
from mlenv.core.spec import Spec
from mlenv.errors import Conflict, Forbidden, InvalidInput, MlenvError, NotAuthenticated, NotFound, Unavailable

#: The media type of a problem document (RFC 9457, section 6.1).
PROBLEM_TYPE: Final = "application/problem+json"
_BRANCHES: Final = (InvalidInput, NotFound, Conflict, NotAuthenticated, Forbidden, Unavailable)
#: The longest detail that is told, in characters.
_DETAIL: Final = 20_000


class Problem(BaseModel):
    """
    What a server answers when it can't (RFC 9457).

    Attributes:
        code: The error's class.
        branch: The branch of the error tree that it is on.
        hint: What the user can do about it.
        more: A longer explanation.
        lines: More lines that belong to it, such as a difference.
        facts: The error's attributes.
        errors: What is wrong, if that is several things: problems, or places in the request.
        request: The request's id, as the server's logs have it.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    type: str = "about:blank"
    title: str = ""
    status: int = 0
    detail: str = ""
    code: str = ""
    branch: str | None = None
    hint: str | None = None
    more: str | None = None
    lines: list[str] = []
    facts: dict[str, JsonValue] = {}
    errors: list["Problem"] = []
    request: str | None = None


class _Codec(NamedTuple):
    """How an attribute is told, and read again."""

    write: Callable[[Any], JsonValue]
    read: Callable[[Any], Any]


def _read_text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, got {type(value).__name__}")
    return value


def _read_texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError(f"expected a list, got {type(value).__name__}")
    return tuple(_read_text(each) for each in value)


def _read_spec(value: object) -> Spec:
    return SpecBody.model_validate(value, strict=False).unchecked()


def _read_maybe(value: object) -> str | None:
    return None if value is None else _read_text(value)


_TEXT: Final = _Codec(str, _read_text)
_MAYBE: Final = _Codec(lambda value: value, _read_maybe)
_TEXTS: Final = _Codec(list, _read_texts)
_SPEC: Final = _Codec(lambda spec: spec.to_dict(), _read_spec)

_CHAIN: Final = {"chain": _TEXTS}
_PROJECT: Final = {"project": _TEXT} | _CHAIN
_CHANNEL: Final = {"url": _TEXT}
#: The facts of each class that has some which a caller may want. A class that is not here has its message and hint.
#: By branch: classes of two branches may have one name.
_FACTS: Final[Mapping[type[MlenvError], Mapping[str, Mapping[str, _Codec]]]] = {
    NotFound: {
        "EnvironmentNotFound": {"name": _TEXT, "near": _TEXTS},
        "VersionNotFound": {"name": _TEXT, "version": _TEXT, "versions": _TEXTS},
        "LabelNotFound": {"name": _TEXT, "label": _TEXT, "labels": _TEXTS},
        "NoVersions": {"name": _TEXT},
        "RegistryNotHere": {"registry": _TEXT},
    },
    Conflict: {
        "VersionConflict": {"name": _TEXT, "version": _TEXT, "stored": _SPEC, "given": _SPEC},
        "EnvironmentArchived": {"name": _TEXT, "version": _TEXT},
        "VersionChanged": {"name": _TEXT, "version": _TEXT},
    },
    InvalidInput: {
        "InvalidName": {"what": _TEXT, "text": _TEXT},
        "InvalidReference": {"text": _TEXT},
        "InvalidDigest": {"text": _TEXT},
        "InvalidPlatform": {"text": _TEXT},
        "InvalidText": {"what": _TEXT},
        "ResolutionFailed": _CHAIN,
        "VersionConflict": {"project": _MAYBE} | _CHAIN,
        "CondaClash": {"project": _MAYBE, "conda_chain": _TEXTS} | _CHAIN,
        "ProjectNotFound": {"renamed_to": _MAYBE} | _PROJECT,
        "PackageNotFound": {"renamed_to": _MAYBE, "near": _TEXTS, "elsewhere": _TEXTS} | _PROJECT,
        "NoSuchVersion": {"nearest": _TEXTS} | _PROJECT,
        "NotYetUploaded": _PROJECT,
        "UnlistedFile": {"filename": _TEXT, "digest": _MAYBE} | _PROJECT,
        "NotForPlatform": {"platforms": _TEXTS} | _PROJECT,
        "ShadowedByChannel": {"channel": _TEXT} | _PROJECT,
        "MissingVirtualPackage": {"offered": _MAYBE} | _PROJECT,
        "ChannelNotFound": _CHANNEL,
    },
    Unavailable: {
        "IndexUnreachable": _CHANNEL,
        "ChannelUnreachable": _CHANNEL,
        "CredentialsRefused": _CHANNEL,
        "ChannelRefused": _CHANNEL,
        "UnusableRecord": {"url": _TEXT, "why": _TEXT},
    },
}
#: The branch that a status means, where the document names none: it is somebody else's, or of a request never understood.
_BY_STATUS: Final[Mapping[int, type[MlenvError]]] = {
    401: NotAuthenticated,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    412: Conflict,
}


def error_members(error: MlenvError) -> dict[str, Any]:
    """What a problem document has of an error beside detail and hint, by which a client knows it again."""
    members: dict[str, Any] = {}
    branch = next((each for each in _BRANCHES if isinstance(error, each)), None)
    if branch is not None:
        members["branch"] = branch.__name__
    if error.detail:
        members["more"] = redact(error.detail)[:_DETAIL]
    codecs = _codecs(branch, type(error).__name__)
    # NOTE: two classes may have one name; the one that has these facts is meant.
    if codecs and all(hasattr(error, name) for name in codecs):
        members["facts"] = {name: codec.write(getattr(error, name)) for name, codec in codecs.items()}
    return members


def _codecs(branch: type[MlenvError] | None, code: str) -> Mapping[str, _Codec]:
    return _FACTS.get(branch, {}).get(code, {}) if branch is not None else {}


def error_of(problem: Problem) -> MlenvError | ExceptionGroup[MlenvError]:
    """
    The error that a problem document tells of.

    It is of the class that the server named, if this process has loaded it and all its facts are there; otherwise of a
    class of that name on the same branch.
    """
    if len(faults := [each for each in problem.errors if each.code]) > 1:
        return ExceptionGroup(problem.detail, [each for one in faults for each in _flat(error_of(one))])
    branch = _branch(problem)
    found = _class(problem.code, branch)
    facts = _facts(problem, branch) if found else None
    if found is None or facts is None:
        found, facts = type(problem.code if problem.code.isidentifier() else branch.__name__, (branch,), {}), {}
    error = found.__new__(found, problem.detail)
    Exception.__init__(error, problem.detail)
    for name, value in facts.items():
        setattr(error, name, value)
    error.hint, error.detail = problem.hint, problem.more
    return error


def _facts(problem: Problem, branch: type[MlenvError]) -> dict[str, Any] | None:
    """The attributes that the class has; None if one is missing or wrong."""
    try:
        return {name: codec.read(problem.facts[name]) for name, codec in _codecs(branch, problem.code).items()}
    except (KeyError, TypeError, ValidationError):
        return None


def _class(code: str, branch: type[MlenvError]) -> type[MlenvError] | None:
    """A class of the error tree by its name: those of `core.refusals`, and all else that is loaded, below the branch."""
    known = getattr(refusals, code, None)
    if isinstance(known, type) and issubclass(known, branch):
        return known
    return next((each for each in _below(branch) if each.__name__ == code), None)


def _below(branch: type[MlenvError]) -> Iterator[type[MlenvError]]:
    yield branch
    for each in branch.__subclasses__():
        yield from _below(each)


def _branch(problem: Problem) -> type[MlenvError]:
    for each in _BRANCHES:
        if each.__name__ == problem.branch:
            return each
    return _BY_STATUS.get(problem.status, Unavailable if problem.status >= 500 or not problem.status else InvalidInput)


def _flat(error: MlenvError | ExceptionGroup[MlenvError]) -> Iterator[MlenvError]:
    if isinstance(error, ExceptionGroup):
        for each in error.exceptions:
            yield from _flat(each)
    else:
        yield error
