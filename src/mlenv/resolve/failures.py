"""
Why there is no answer: one leaf per kind, culprit first, in the user's own line.

    InvalidInput
    └── ResolutionFailed
        ├── InvalidRequirement    a line that can't be read, or can't be locked
        ├── VersionConflict       two things ask for versions that exclude each other
        ├── ProjectNotFound       no such project, or it has another name
        ├── NoSuchVersion         the project has no such version
        ├── NotYetUploaded        it was not there at the `as_of` day
        ├── NoVersionForPython    another Python would do
        ├── UnlistedFile          its file has none of the hashes that the user lists
        ├── NoWheel               only source, which must be allowed; or wheels for other systems only
        └── BuildFailed           source that was allowed, and does not build
    Unavailable
    ├── IndexUnreachable
    └── CredentialsRefused
"""

from collections.abc import Sequence

from mlenv.core.spec import Requirement
from mlenv.errors import InvalidInput, Unavailable


class ResolutionFailed(InvalidInput):
    """
    The requirements have no answer.

    Attributes:
        lines: The user's lines that lead there, the first to blame first.
        chain: How the culprit is pulled in, from the user's line down: `("mltable", "pyarrow<4")`. May be empty.
        detail: The resolver's own explanation.
        verified: Whether what the hint says was tried, and resolves.
    """

    tried = "tried: then it resolves"
    lines: Sequence[Requirement] = ()
    chain: Sequence[str] = ()
    verified: bool = False

    def __init__(
        self,
        message: str,
        *,
        lines: Sequence[Requirement] = (),
        chain: Sequence[str] = (),
        hint: str | None = None,
        detail: str | None = None,
        verified: bool = False,
    ) -> None:
        super().__init__(message)
        self.lines, self.chain, self.verified = tuple(lines), tuple(chain), verified
        self.detail = detail
        if hint is not None:
            self.hint = f"{hint} ({self.tried})" if verified else hint


class InvalidRequirement(ResolutionFailed):
    """A line that is no requirement, or one that can't be locked to exact bytes."""

    def __init__(self, requirement: Requirement, why: str, hint: str | None = None) -> None:
        super().__init__(f"{requirement}: {why}", lines=(requirement,), hint=hint)
        self.requirement, self.why = requirement, why


class VersionConflict(ResolutionFailed):
    """Two things ask for versions of a project that exclude each other. `project` is that one, if it is known."""

    project: str | None = None


class ProjectNotFound(ResolutionFailed):
    """
    No index has the project, or what it has under that name only says that the name is wrong.

    Attributes:
        project: What was asked for.
        renamed_to: The name that was meant, if it is known.
    """

    project: str = ""
    renamed_to: str | None = None


class NoSuchVersion(ResolutionFailed):
    """
    The project exists, but no version of it is as asked.

    Attributes:
        project: Its name.
        nearest: Versions that do exist, near what was asked for.
        yanked: The version was there, and has been withdrawn.
    """

    project: str = ""
    nearest: tuple[str, ...] = ()
    yanked: bool = False


class NotYetUploaded(ResolutionFailed):
    """Nothing that fits was uploaded by the `as_of` day. `project` names it."""

    project: str = ""


class NoVersionForPython(ResolutionFailed):
    """
    What was asked for exists, but not for the target's Python.

    Attributes:
        project: Its name.
        python: The target's Python.
        would_do: Minor versions of Python that would do, in order.
    """

    project: str = ""
    python: str = ""
    would_do: tuple[str, ...] = ()


class UnlistedFile(ResolutionFailed):
    """
    What would be taken has none of the hashes that the user's lines list (`--hash`).

    Attributes:
        project: Its name.
        filename: The file.
        digest: Its sha256, if the index tells it.
    """

    project: str = ""
    filename: str = ""
    digest: str | None = None


class NoWheel(ResolutionFailed):
    """
    Projects without a wheel for the target.

    Attributes:
        projects: Their names, sorted.
        platforms: What there are wheels for, if it has wheels only for other systems and no source.
    """

    tried = "all but the build was tried: then it resolves"
    projects: tuple[str, ...] = ()
    platforms: tuple[str, ...] = ()


class BuildFailed(ResolutionFailed):
    """A source distribution that was allowed to be built, and could not be. `project` names it."""

    project: str = ""


class IndexUnreachable(Unavailable):
    """
    An index, or a file on it, did not come.

    Attributes:
        url: What was asked for, redacted.
        why: What came of it.
    """

    hint = "check the network, the proxy (`HTTPS_PROXY`) and the address; `mlenv doctor` shows what is reachable"

    def __init__(self, url: str, why: str, *, detail: str | None = None, hint: str | None = None) -> None:
        super().__init__(f"{url}: {why}")
        self.url, self.why, self.detail = url, why, detail
        if hint is not None:
            self.hint = hint


class CredentialsRefused(Unavailable):
    """
    An index wants other credentials, or any.

    Attributes:
        url: What was asked for, redacted.
        status: 401 or 403.
    """

    lasting = True

    def __init__(self, url: str, status: int, *, index: str | None = None, detail: str | None = None) -> None:
        what = "wants credentials, or other ones" if status == 401 else "does not let these credentials in"
        super().__init__(f"{url} {what} ({status})")
        self.url, self.status, self.detail = url, status, detail
        name = variable_name(index) if index else "NAME"
        named = "" if index else " after giving the index a name"
        self.hint = (
            f"set UV_INDEX_{name}_USERNAME and UV_INDEX_{name}_PASSWORD{named}, "
            "or put the host into ~/.netrc, or into the keyring"
        )


def variable_name(index: str) -> str:
    """An index's name as it stands in variables: `my-feed` → `MY_FEED`."""
    return "".join(char if char.isalnum() else "_" for char in index.upper())
