"""What is asked for conda packages, and what that means: channels by address, specs in one spelling, the target."""

import re
from datetime import UTC, datetime
from typing import Any, Final

from msgspec import Struct

from mlenv.core.conda_package import NOARCH
from mlenv.core.match_spec import InvalidMatchSpec, MatchSpec, match_specs, parse_match_spec, to_rattler
from mlenv.core.platform import GLIBC_FLOOR, Platform, Target
from mlenv.core.spec import CondaFile, Requirement
from mlenv.errors import InvalidInput
from mlenv.resolve.conda_channels import ChannelTable, CondaChannel
from mlenv.resolve.conda_process import CondaProcess
from mlenv.resolve.failures import InvalidRequirement

_SUBDIRS: Final = {Platform("linux", "amd64"): "linux-64", Platform("linux", "arm64"): "linux-aarch64"}
#: The kernel that is assumed: the one of the oldest distribution with GLIBC_FLOOR's successor. Never the machine's own.
_LINUX: Final = "5.10"
#: Most specs and channels that one request may have. Each channel is asked for several lists.
_MOST_SPECS: Final = 5000
_MOST_CHANNELS: Final = 50
_CUDA: Final = re.compile(r"\d{1,3}(\.\d{1,3}){0,2}")


class NoCondaPlatform(InvalidInput):
    """Conda packages are locked for Linux only. `platform` is what was asked for."""

    hint = "lock it for linux/amd64 or linux/arm64"

    def __init__(self, platform: Platform) -> None:
        super().__init__(f"conda packages can't be locked for {platform}")
        self.platform = platform


class InvalidCuda(InvalidInput):
    """What should be a version of CUDA, and is not."""

    hint = "write `cuda: 12.4`"

    def __init__(self, text: str) -> None:
        super().__init__(f"not a version of CUDA: {text[:100]!r}")


class AsksTooMuch(InvalidInput):
    """A file that asks conda for more than any does that somebody wrote."""

    hint = "leave out what is not needed, or split it into several environments"

    def __init__(self, what: str, count: int, most: int) -> None:
        super().__init__(f"{count} conda {what}: at most {most} are taken")
        self.count, self.most = count, most


class CondaRequest(Struct, frozen=True):
    """
    What is asked of the resolver.

    Attributes:
        specs: What the user asks conda for, `python` too, in the user's own lines.
        target: What it must run on; its Python does not matter: that comes from conda.
        channels: Those of the conda file, in its order, `nodefaults` among them.
        seeds: What conda adds: `pip` where only the file's `pip:` section needs it.
        cuda: The version of CUDA that the target's driver offers, or None.
        as_of: Packages that came later are not seen (with a time zone), or None.
    """

    specs: tuple[Requirement, ...]
    target: Target
    channels: tuple[str, ...] = ()
    seeds: tuple[Requirement, ...] = ()
    cuda: str | None = None
    as_of: datetime | None = None


def request_of(
    conda: CondaFile, target: Target, *, cuda: str | None = None, as_of: datetime | None = None
) -> CondaRequest:
    """What a conda file asks for, with the `pip` that conda adds for a `pip:` section."""
    specs = match_specs(conda)
    names = {re.split(r"[\s=<>!~\[]", each.text.rpartition("::")[2], maxsplit=1)[0].lower() for each in specs}
    seeds = (Requirement("pip"),) if conda.pip and "pip" not in names else ()
    return CondaRequest(specs, target, conda.channels, seeds, cuda, as_of)


class Asked(Struct, frozen=True):
    """One spec: the user's line, what it means, and its text for rattler."""

    line: Requirement
    spec: MatchSpec
    text: str
    seed: bool = False


class Plan(Struct, frozen=True):
    """
    What the solver is asked.

    Attributes:
        asked: The specs.
        channels: In order, with those that the settings and single specs add.
        platforms: The channels' directories: the target's, and `noarch`.
        virtual: Name, version and build of what the target itself offers.
        as_of: A UTC time, as ISO 8601, or None.
        pip: Whether Python brings pip.
    """

    asked: tuple[Asked, ...]
    channels: tuple[CondaChannel, ...]
    platforms: tuple[str, ...]
    virtual: tuple[tuple[str, str, str], ...]
    as_of: str | None
    pip: bool

    @property
    def sources(self) -> list[dict[str, Any]]:
        """The channels as the process takes them."""
        return [{"name": each.name, "urls": each.urls, "multiple": each.multiple} for each in self.channels]

    def solve(self, process: CondaProcess) -> list[dict[str, Any]]:
        """Have it solved. Raises as `CondaProcess.ask`."""
        answer = process.ask(
            "solve",
            specs=[each.text for each in self.asked],
            names=sorted({each.spec.name for each in self.asked}),
            channels=self.sources,
            platforms=self.platforms,
            virtual=self.virtual,
            as_of=self.as_of,
            pip=self.pip,
        )
        records: list[dict[str, Any]] = answer["records"]
        return records


def virtual_packages(target: Target, cuda: str | None) -> tuple[tuple[str, str, str], ...]:
    """
    What the target offers beside packages: name, version and build. Nothing of this machine's is among it.

    Raises:
        NoCondaPlatform: It is not Linux, or another machine.
        InvalidCuda: `cuda` is no version.
    """
    if target.platform not in _SUBDIRS:
        raise NoCondaPlatform(target.platform)
    if cuda is not None and not _CUDA.fullmatch(cuda):
        raise InvalidCuda(cuda)
    own = [
        ("__unix", "0", "0"),
        ("__linux", _LINUX, "0"),
        ("__glibc", str(target.glibc or GLIBC_FLOOR), "0"),
        ("__archspec", "1", target.platform.machine),
    ]
    return (*own, *([("__cuda", cuda, "0")] if cuda is not None else []))


def make_plan(request: CondaRequest, table: ChannelTable, *, pip: bool = True) -> Plan:
    """
    What a request means: channels by address, specs in one spelling, the target as virtual packages.

    Raises:
        InvalidRequirement: A line is no match spec.
        ExceptionGroup: Several are not.
        InvalidChannel, NoCondaPlatform, InvalidCuda, AsksTooMuch: As they say.
    """
    if len(request.specs) > _MOST_SPECS:
        raise AsksTooMuch("packages are asked for", len(request.specs), _MOST_SPECS)
    virtual = virtual_packages(request.target, request.cuda)
    specs: list[tuple[Requirement, MatchSpec, bool]] = []
    faults: list[InvalidRequirement] = []
    for line, seed in (*((each, False) for each in request.specs), *((each, True) for each in request.seeds)):
        try:
            specs.append((line, parse_match_spec(line.text), seed))
        except InvalidMatchSpec as error:
            faults.append(InvalidRequirement(line, error.why, error.hint))
    if faults:
        raise faults[0] if len(faults) == 1 else ExceptionGroup(f"{len(faults)} lines are no conda packages", faults)
    named = list(dict.fromkeys(spec.channel for _, spec, _ in specs if spec.channel))
    asked = tuple(
        Asked(line, spec, to_rattler(spec, _channel_word(table.find(spec.channel)) if spec.channel else None), seed)
        for line, spec, seed in specs
    )
    channels = table.order(request.channels, named)
    if len(channels) > _MOST_CHANNELS:
        raise AsksTooMuch("channels are to be searched", len(channels), _MOST_CHANNELS)
    return Plan(
        asked,
        channels,
        (_SUBDIRS[request.target.platform], NOARCH),
        virtual,
        request.as_of.astimezone(UTC).isoformat() if request.as_of else None,
        pip,
    )


def _channel_word(channel: CondaChannel) -> str:
    """What rattler knows a channel by: its address, or the name for several."""
    return channel.name if channel.multiple else f"{channel.urls[0]}/"
