"""
Why conda's packages have no solution: one leaf per kind, culprit first, in the user's own line.

    InvalidInput
    ├── ChannelNotFound            what should be a channel is none
    └── ResolutionFailed
        ├── ProjectNotFound        (failures.py)
        │   └── PackageNotFound    no channel has it; with near names, and other channels that have it
        ├── NoSuchVersion          (failures.py)
        ├── NotYetUploaded         (failures.py)
        ├── VersionConflict        (failures.py)
        ├── NotForPlatform         it exists for other platforms
        ├── ShadowedByChannel      only a channel has it that stands behind another one with that name
        └── MissingVirtualPackage  the target does not offer it: CUDA, a newer glibc
    Unavailable
    ├── IndexUnreachable           (failures.py)
    │   └── ChannelUnreachable     asked again later, it may answer
    └── CredentialsRefused         (failures.py)
        └── ChannelRefused         the same however often it is asked
"""

from mlenv.errors import InvalidInput
from mlenv.resolve.failures import CredentialsRefused, IndexUnreachable, ProjectNotFound, ResolutionFailed


class PackageNotFound(ProjectNotFound):
    """
    No channel of the file has the package.

    Attributes:
        near: Names that its channels have, like the one that was asked for.
        elsewhere: Channels of conda's settings that have it.
    """

    near: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()


class NotForPlatform(ResolutionFailed):
    """The package, or what is asked of it, exists only for other `platforms` (channel directories). `project` names it."""

    project: str = ""
    platforms: tuple[str, ...] = ()


class ShadowedByChannel(ResolutionFailed):
    """
    What fits is only in a channel behind another one that has the name, too: strict channel priority.

    Attributes:
        project: Its name.
        channel: The channel that has what fits, as it was written.
    """

    project: str = ""
    channel: str = ""


class MissingVirtualPackage(ResolutionFailed):
    """
    The target does not offer something, or only an older one.

    Attributes:
        project: What: `__cuda`.
        offered: The version that the target has, or None.
    """

    project: str = ""
    offered: str | None = None


class ChannelUnreachable(IndexUnreachable):
    """A channel did not come. `url` is what was asked for, redacted."""


class ChannelNotFound(InvalidInput):
    """
    There is no such channel: what should be one has no packages for any platform.

    Attributes:
        url: What was asked for, redacted.
    """

    hint = "check the spelling in `channels:`, and what `.condarc` makes of that name"
    status = 422

    def __init__(self, url: str, *, detail: str | None = None) -> None:
        super().__init__(f"{url}: there is no such channel")
        self.url, self.detail = url, detail


class ChannelRefused(CredentialsRefused):
    """A channel wants other credentials, or any. `url` is redacted, `status` 401 or 403."""

    def __init__(self, url: str, status: int, *, detail: str | None = None) -> None:
        super().__init__(url, status, detail=detail)
        self.hint = (
            "put them into RATTLER_AUTH_FILE (`rattler auth login HOST`), ~/.netrc, the keyring, "
            "or into the address in your own ~/.condarc"
        )
