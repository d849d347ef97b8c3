"""
Conda channels on the loopback interface, with real packages, and a log of what they were asked.

Plain `repodata.json` and compressed (CEP 36), and sharded (CEP 16).
"""

import bz2
import hashlib
import json
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import zstandard

from support.conda_packages import Package
from support.loopback import Answering, serve_here

SUBDIRS: Final = ("noarch", "linux-64", "linux-aarch64")


@dataclass(frozen=True)
class Asked:
    """One request: its method, its path, headers of interest, and the status that it got."""

    method: str
    path: str
    host: str
    authorization: str | None
    if_none_match: str | None
    status: int


@dataclass
class CondaChannels:
    """
    A server of channels, and how it behaves.

    Attributes:
        url: Its address, without a slash at its end.
        user, password: What basic authentication wants, if `user` is set.
        bearer: What a bearer token must be, if set.
        token: What `/t/TOKEN/` must stand before every path, if set.
        sharded, compressed: Which forms of repodata there are besides the plain one, from before the first request on.
        anything: What every channel has that was not made; None if there is no other channel.
        ranges: Honour `Range`.
        answers: Status and body for paths that begin so, instead of what is there.
        redirects: Where paths that begin so lead instead.
        log: Every request, in order.
        made: Lists of packages that were made before, by channel and directory.
    """

    user: str | None = None
    password: str = ""
    bearer: str | None = None
    token: str | None = None
    sharded: bool = True
    compressed: bool = True
    anything: list[Package] | None = None
    ranges: bool = True
    url: str = ""
    channels: dict[str, list[Package]] = field(default_factory=dict)
    answers: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    log: list[Asked] = field(default_factory=list)
    made: dict[tuple[str | None, str], dict[str, bytes]] = field(default_factory=dict)

    def add(self, channel: str, *packages: Package) -> str:
        """Put packages into a channel, which is made, and give its address. The same file again replaces the old."""
        self.made.clear()
        names = {each.filename for each in packages}
        kept = [each for each in self.channels.get(channel, ()) if each.filename not in names]
        self.channels[channel] = [*kept, *packages]
        return f"{self.url}/{channel}"

    def asked(self, pattern: str) -> list[str]:
        """The paths of requests that match a regular expression somewhere."""
        return [each.path for each in self.log if re.search(pattern, each.path)]

    def document(self, channel: str, name: str) -> bytes | None:
        """What is at a path of a channel, `linux-64/repodata.json`, or None."""
        subdir, _, rest = name.partition("/")
        packages = self.channels.get(channel, self.anything)
        if subdir not in SUBDIRS or packages is None:
            return None
        here = [each for each in packages if each.subdir == subdir]
        key = (channel if channel in self.channels else None, subdir)
        if key not in self.made:
            self.made[key] = self._lists(subdir, here)
        files = (each.data for each in here if each.filename == rest)
        return self.made[key].get(rest) or next(files, None)

    def _lists(self, subdir: str, packages: list[Package]) -> dict[str, bytes]:
        plain = repodata(subdir, packages)
        made = {"repodata.json": plain}
        if self.compressed:
            made |= {"repodata.json.zst": zstandard.compress(plain), "repodata.json.bz2": bz2.compress(plain)}
        return made | (shards(subdir, packages) if self.sharded else {})

    def write_to(self, directory: Path) -> None:
        """The same channels as files: `file://` channels."""
        for channel, packages in self.channels.items():
            for subdir in SUBDIRS:
                place = directory / channel / subdir
                place.mkdir(parents=True, exist_ok=True)
                here = [each for each in packages if each.subdir == subdir]
                (place / "repodata.json").write_bytes(repodata(subdir, here))
                for each in here:
                    (place / each.filename).write_bytes(each.data)


@contextmanager
def serve_channels(channels: CondaChannels | None = None) -> Iterator[CondaChannels]:
    """Serve channels on a free port of the loopback interface."""
    served = channels or CondaChannels()

    class Handler(_Handler):
        offered = served

    with serve_here(Handler) as served.url:
        yield served


def repodata(subdir: str, packages: list[Package]) -> bytes:
    """`repodata.json` of one directory of a channel."""
    document: dict[str, Any] = {"info": {"subdir": subdir}, "packages": {}, "packages.conda": {}, "removed": []}
    for each in packages:
        document["packages.conda" if each.filename.endswith(".conda") else "packages"][each.filename] = each.record
    return json.dumps(document | {"repodata_version": 1}).encode()


def shards(subdir: str, packages: list[Package]) -> dict[str, bytes]:
    """`repodata_shards.msgpack.zst` of one directory, and the shards that it names."""
    by_name: dict[str, dict[str, Any]] = {}
    for each in packages:
        sums = {key: bytes.fromhex(each.record[key]) for key in ("sha256", "md5") if each.record.get(key)}
        empty: dict[str, Any] = {"packages": {}, "packages.conda": {}, "removed": []}
        shard = by_name.setdefault(each.name, empty)
        shard["packages.conda" if each.filename.endswith(".conda") else "packages"][each.filename] = each.record | sums
    blobs = {name: zstandard.compress(pack(shard)) for name, shard in by_name.items()}
    sums = {name: hashlib.sha256(blob).digest() for name, blob in blobs.items()}
    info = {"subdir": subdir, "base_url": "", "shards_base_url": "./shards/", "created_at": "2026-01-01T00:00:00Z"}
    index = zstandard.compress(pack({"version": 1, "info": info, "shards": sums}))
    files = {f"shards/{sums[name].hex()}.msgpack.zst": blob for name, blob in blobs.items()}
    return {"repodata_shards.msgpack.zst": index} | files


def pack(value: Any) -> bytes:
    """Plain data as MessagePack (msgpack's `spec.md`), each length in its longest form."""
    match value:
        case None:
            return b"\xc0"
        case bool():
            return b"\xc3" if value else b"\xc2"
        case int():
            return struct.pack(">BQ", 0xCF, value) if value >= 0 else struct.pack(">Bq", 0xD3, value)
        case float():
            return struct.pack(">Bd", 0xCB, value)
        case str():
            return struct.pack(">BI", 0xDB, len(value.encode())) + value.encode()
        case bytes():
            return struct.pack(">BI", 0xC6, len(value)) + value
        case dict():
            items = b"".join(pack(key) + pack(each) for key, each in value.items())
            return struct.pack(">BI", 0xDF, len(value)) + items
        case _:
            return struct.pack(">BI", 0xDD, len(value)) + b"".join(map(pack, value))


class _Handler(Answering):
    offered: CondaChannels

    def answer(self) -> None:
        status, data, headers = self._found()
        asked = (self.headers.get(name) for name in ("Host", "Authorization", "If-None-Match"))
        host, authorization, mark = asked
        self.offered.log.append(Asked(self.command, self.path, host or "", authorization, mark, status))
        self.send(status, data, headers)

    def _found(self) -> tuple[int, bytes, dict[str, str]]:
        offered, path = self.offered, self.path.partition("?")[0]
        if (to := next((to for start, to in offered.redirects.items() if path.startswith(start)), None)) is not None:
            return 302, b"", {"Location": to}
        given = next((each for start, each in offered.answers.items() if path.startswith(start)), None)
        if given is not None:
            return *given, {}
        if not self._is_known():
            return 401, b"", {"WWW-Authenticate": 'Basic realm="channel"'}
        if offered.token is not None:
            if not path.startswith(f"/t/{offered.token}/"):
                return 403, b"", {}
            path = path.removeprefix(f"/t/{offered.token}")
        channel, _, name = path.lstrip("/").rpartition("/")
        if channel.endswith("/shards"):
            channel, name = channel.removesuffix("/shards"), f"shards/{name}"
        channel, _, subdir = channel.rpartition("/")
        data = offered.document(channel, f"{subdir}/{name}")
        if data is None:
            return 404, b"", {}
        return self.file(data, etag=True, ranges=offered.ranges)

    def _is_known(self) -> bool:
        offered = self.offered
        if offered.bearer is not None:
            return self.headers.get("Authorization") == f"Bearer {offered.bearer}"
        return offered.user is None or self.shows(offered.user, offered.password)
