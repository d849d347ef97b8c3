"""What the machines of a site do for those who use it: whether they run source builds, and where they fetch from."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final
from urllib.parse import unquote, urlsplit

from msgspec import Struct
from packaging.requirements import InvalidRequirement
from packaging.requirements import Requirement as Pep508

from mlenv.core.redact import redact
from mlenv.core.spec import Requirement, Sources
from mlenv.errors import Forbidden

_PORTS = {"http": 80, "https": 443}


class SourceBuildsOff(Forbidden):
    """A package was to be built from source, which runs its author's code on the site's machines."""

    hint = (
        "take versions that have wheels; or whoever runs the server sets `source_builds` (MLENV_SOURCE_BUILDS=true); "
        "or lock it on your own machine (`mlenv --embedded`)"
    )

    def __init__(self, what: str) -> None:
        super().__init__(f"this server builds nothing from source: {what}")


class AddressNotListed(Forbidden):
    """Something was to be fetched from where the site's machines fetch nothing."""

    def __init__(self, url: str, why: str) -> None:
        shown = redact(url)[:500]
        super().__init__(f"this server fetches nothing from {shown}: {why}")
        self.hint = (
            "whoever runs the server lists what it may use in `indexes` (MLENV_INDEXES), by the beginnings of addresses"
        )
        self.url, self.why = shown, why


class SitePolicy(Struct, frozen=True):
    """
    What a site's machines do for those who use it.

    Attributes:
        source_builds: Whether they build packages from source: that runs code of whoever wrote these.
        indexes: Beginnings of addresses that specs may name, besides the machine's own index and channels.
        build_network: What steps of a Dockerfile may reach: `none`, or `default` for what the machine can.
        build_engine: What builds Dockerfiles; None for the first that answers.
    """

    source_builds: bool = False
    indexes: tuple[str, ...] = ()
    build_network: str = "none"
    build_engine: str | None = None

    def lists(self, url: str, *own: str | None) -> bool:
        """Whether an address begins as one of the list, or as one of the machine's own, does."""
        return any(_begins(url, each) for each in (*self.indexes, *filter(None, own)))

    def check_source_builds(self, allowed: Sequence[str], *, any_package: bool) -> None:
        """See whether packages may be built from source, by name or any. Raises `SourceBuildsOff`."""
        if not self.source_builds and (allowed or any_package):
            raise SourceBuildsOff(f"`allow_source` names {', '.join(allowed[:5])}" if allowed else "any package may be")

    def check_addresses(self, addresses: Iterable[str], own: str | None) -> None:
        """
        See whether a resolver may be told of addresses. It goes wherever an index leads it: so indexes must be listed.

        Args:
            own: The address of the machine's own index; None if nothing is known of it.

        Raises:
            AddressNotListed: One is not listed.
        """
        for url in addresses:
            if not self.lists(url, own):
                raise AddressNotListed(url, "it is not among the indexes that this server uses")

    def check_channels(self, addresses: Iterable[str], own: Iterable[str]) -> None:
        """
        See whether a solver may be told of conda channels. It goes wherever a channel leads it, and reads files: so
        channels, and single packages that are named by their address, must be the machine's own, or listed.

        Args:
            addresses: What a request leads to (`CondaResolver.channels`).
            own: What the machine's own settings name (`CondaResolver.own_channels`).

        Raises:
            AddressNotListed: One is neither.
        """
        known = tuple(own)
        for url in addresses:
            if not self.lists(url, *known):
                raise AddressNotListed(url, "it is not among the channels that this server uses")


#: What is done where nobody says otherwise.
DEFAULT_POLICY: Final = SitePolicy()


def addresses_of(sources: Sources, requirements: Iterable[Requirement]) -> Iterator[str]:
    """Every address that indexes and requirements name."""
    for index in (*([sources.default] if sources.default else []), *sources.extra):
        yield index.url
    for each in requirements:
        try:
            url = Pep508(each.text).url
        except InvalidRequirement:
            # A bare address. What is neither is refused by whoever reads requirements.
            url = each.text if ":" in each.text else None
        if url:
            yield url


def _begins(url: str, prefix: str) -> bool:
    """Whether an address is below another: the same scheme, host and port, and its path, whole parts of it."""
    try:
        one, other = urlsplit(url), urlsplit(prefix)
        ports = [each.port or _PORTS.get(each.scheme) for each in (one, other)]
    except ValueError:
        return False
    if "@" in one.netloc or "\\" in url or any(part in {".", ".."} for part in unquote(one.path).split("/")):
        return False
    if (one.scheme, one.hostname, ports[0]) != (other.scheme, other.hostname, ports[1]):
        return False
    return one.path == other.path or one.path.startswith(other.path.rstrip("/") + "/")
