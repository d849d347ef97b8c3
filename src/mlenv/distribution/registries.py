"""The way to registries, for a whole process: whose accounts, which settings, and what was learned on the way."""

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.request import getproxies, proxy_bypass
from weakref import WeakSet

from mlenv.core.digest import Digest
from mlenv.core.progress import Progress
from mlenv.core.public_address import is_public
from mlenv.distribution.client import Repository, open_repository
from mlenv.distribution.credentials import Credentials, credential_files
from mlenv.distribution.guard import HostNotListed
from mlenv.distribution.names import RemoteName
from mlenv.distribution.problems import RegistryUnreachable
from mlenv.distribution.settings import INSECURE_VARIABLE, LISTED_VARIABLE, RegistrySettings, named_registries

#: How long a registry may take to answer that nobody named on purpose, and how long its silence is remembered, in seconds.
_REACHED: Final = 3.0
_REMEMBERED: Final = 60.0
#: Of how many blobs per registry it is remembered where they are.
_KNOWN: Final = 20_000


class Registries:
    """Opens repositories."""

    def __init__(
        self,
        credentials: Credentials,
        settings: RegistrySettings,
        memory: Path | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            memory: A directory in which to remember where blobs are; None for no such memory.
        """
        self.credentials, self.settings = credentials, settings
        self._memory, self._clock = memory, clock
        self._silent: dict[str, tuple[float, str]] = {}
        self._opened: WeakSet[Repository] = WeakSet()
        self._stopped = False
        self._lock = threading.Lock()

    def open(
        self, name: RemoteName, *, progress: Progress, write: bool = False, seconds: float | None = None
    ) -> Repository:
        """A repository, to be closed. Nothing is asked yet. Arguments as of `open_repository`."""
        opened = open_repository(
            name,
            credentials=self.credentials,
            settings=self.settings,
            progress=progress,
            write=write,
            seconds=seconds,
        )
        with self._lock:
            self._opened.add(opened)
            stopped = self._stopped
        if stopped:
            opened.stop()
        return opened

    def stop(self) -> None:
        """Let all transfers end soon, with `Stopped`, and begin no other."""
        with self._lock:
            self._stopped = True
            opened = list(self._opened)
        for each in opened:
            each.stop()

    def check_reachable(self, name: RemoteName) -> None:
        """
        See soon whether a registry can be reached at all: without a network, nothing should wait for one.

        Raises:
            RegistryUnreachable: It did not answer within seconds, or did not a moment ago.
            HostNotListed: This server does not speak to it.
        """
        host = name.registry
        until, why = self._silent.get(host, (0.0, ""))
        if self._clock() < until:
            raise RegistryUnreachable(host, f"{why}, a moment ago")
        if _through_proxy(host):
            return
        why = _connect(host, self._ports(host), guarded=self.settings.is_guarded(host)) or ""
        if why:
            self._silent[host] = (self._clock() + _REMEMBERED, why)
            raise RegistryUnreachable(host, why)

    def known(self, host: str) -> "KnownBlobs":
        """What is remembered of a registry's blobs."""
        path = None if self._memory is None else self._memory / f"{host.replace(':', '_').replace('/', '_')}.json"
        return KnownBlobs(path)

    def _ports(self, host: str) -> tuple[int, ...]:
        return (443, 80) if self.settings.is_insecure(host) else (443,)


class KnownBlobs:
    """
    In which repository of one registry a blob was last seen, so that it can be mounted from there.

    A memory, no more: what is wrong in it costs one request.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._new: dict[str, str] = {}
        self._lock = threading.Lock()
        self._old = self._read()

    def repository(self, digest: Digest) -> str | None:
        """Where it was seen."""
        return self._old.get(str(digest))

    def add(self, digest: Digest, repository: str) -> None:
        """It is there."""
        with self._lock:
            self._new[str(digest)] = repository

    def save(self) -> None:
        """Keep what was added. What can't be written is forgotten."""
        if self._path is None or not self._new:
            return
        # Others may have added something meanwhile.
        known = {**self._read(), **self._new}
        temporary = self._path.with_name(f".{self._path.name}.{secrets.token_hex(4)}")
        with suppress(OSError):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary.write_text(json.dumps(dict(list(known.items())[-_KNOWN:])))
            os.replace(temporary, self._path)

    def _read(self) -> dict[str, str]:
        try:
            document = json.loads(self._path.read_bytes()) if self._path is not None else {}
            return {key: value for key, value in document.items() if isinstance(value, str)}
        except (OSError, ValueError, AttributeError, RecursionError):
            return {}


def open_registries(
    variables: Mapping[str, str],
    home: Path,
    *,
    memory: Path | None = None,
    insecure: tuple[str, ...] = (),
    authority: Path | None = None,
    guarded: bool = False,
) -> Registries:
    """
    As this user's variables and files say.

    Args:
        home: The user's home directory.
        insecure: Registries that may do without trusted TLS, besides those in `MLENV_INSECURE_REGISTRIES`.
        authority: A file with an authority to trust.
        guarded: The names of registries come from others: besides the public Internet, only those in `MLENV_REGISTRIES`
            are reached.

    Raises:
        InvalidInput: A registry that is named is no host.
    """
    settings = RegistrySettings(
        insecure=named_registries(variables, INSECURE_VARIABLE, insecure),
        listed=named_registries(variables, LISTED_VARIABLE) if guarded else None,
        authority=authority,
    )
    return Registries(Credentials(credential_files(variables, home)), settings, memory)


def _through_proxy(host: str) -> bool:
    """Whether connections to a host go through a proxy, which is then what must be reached."""
    proxies = getproxies()
    return bool(proxies.get("https") or proxies.get("all")) and not proxy_bypass(host)


def _connect(host: str, ports: tuple[int, ...], *, guarded: bool) -> str | None:
    """
    Why nothing can be reached there, or None. Finding the address counts: it has no limit of its own.

    Args:
        guarded: Not even try an address that is not on the public Internet. Raises `HostNotListed`.
    """
    name, colon, port = host.rpartition(":")
    if not colon or not port.isdecimal():
        name = host
    else:
        ports = (int(port),)
    name = name.strip("[]")
    results: list[str | HostNotListed | None] = []

    def attempt() -> None:
        for each in ports:
            try:
                found = socket.getaddrinfo(name, each, type=socket.SOCK_STREAM)
                if guarded and not all(is_public(str(address[0])) for *_, address in found):
                    results.append(HostNotListed(host))
                    return
                socket.create_connection((name, each), _REACHED).close()
            except (OSError, RuntimeError, ValueError, OverflowError) as error:
                why = getattr(error, "strerror", None) or str(error) or type(error).__name__
                continue
            results.append(None)
            return
        results.append(why)

    thread = threading.Thread(target=attempt, name="reach", daemon=True)
    thread.start()
    thread.join(_REACHED + 1.0)
    result = results[0] if results else "no answer within seconds"
    if isinstance(result, HostNotListed):
        raise result
    return result
