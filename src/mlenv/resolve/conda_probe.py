"""How conda's packages stand on this machine: whether the solver starts, what is asked by default, and whether that answers."""

import os
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from mlenv.errors import MlenvError
from mlenv.resolve.conda_channels import ChannelTable, CondaChannel
from mlenv.resolve.conda_credentials import ChannelAccess, read_stored
from mlenv.resolve.conda_fetch import ChannelFetcher
from mlenv.resolve.conda_process import CondaProcess
from mlenv.resolve.condarc import CondaSettings, read_settings
from mlenv.resolve.failures import IndexUnreachable

#: Seconds that a channel has to answer.
_PATIENCE: Final = 5.0
#: What a channel has, one or the other.
_LISTS: Final = ("repodata.json.zst", "repodata.json")


class CondaState(Struct, frozen=True):
    """
    What was found.

    Attributes:
        solver: Its name and version: `py-rattler 0.28.0`.
        channels: Those that are asked where a file names none, in order; without credentials.
        answers: Whether the first of them does; None if it was not asked, since settings say `offline` or there is none.
        failure: Why it does not, or None.
    """

    solver: str
    channels: tuple[CondaChannel, ...]
    answers: bool | None
    failure: MlenvError | None = None


def probe_conda(
    settings: CondaSettings, stored: Mapping[str, Mapping[str, Any]], *, timeout: float = _PATIENCE
) -> CondaState:
    """
    See how conda's packages stand.

    Args:
        settings: conda's, as `read_settings` gives them.
        stored: Credentials by host, as `read_stored` gives them.
        timeout: Seconds that a channel has to answer.

    Raises:
        CondaMissing, CondaTimeout: The solver does not start.
        InvalidChannel: The settings name what is no channel.
    """
    with CondaProcess(timeout=timeout) as process:
        solver, alias = f"py-rattler {process.version}", process.alias
    table = ChannelTable(settings, alias)
    channels = table.order(())
    if not channels or settings.offline:
        return CondaState(solver, channels, None)
    access = ChannelAccess(table, stored)
    failure = _ask(ChannelFetcher(lambda: access, timeout=timeout, attempts=1), channels[0].urls[0])
    return CondaState(solver, channels, failure is None, failure)


def probe_this_machine() -> CondaState:
    """As `probe_conda`, with what the user of this process has set. Raises `InvalidCondarc`, `InvalidCredentialFile` too."""
    environment = {"HOME": str(Path.home()), **os.environ}
    return probe_conda(read_settings(environment), read_stored(environment))


def _ask(fetcher: ChannelFetcher, url: str) -> MlenvError | None:
    """Why a channel does not answer; None if it does. Only the beginning of its list is fetched."""
    failure: MlenvError | None = None
    for name in _LISTS:
        try:
            with closing(fetcher.stream(f"{url}/noarch/{name}")) as chunks:
                next(chunks, b"")
            return None
        except IndexUnreachable as error:
            failure = error
            if "(404)" not in error.why:
                break
        except MlenvError as error:
            return error
    return failure
