"""
The process that uses py-rattler: `python -m mlenv.conda_child`.

It has a process of its own since rattler ends it on some of what channels send, has no limit on what it reads, and does
not survive a fork. Requests come as JSON, one to a line; each is answered by one line; the end of the input ends it.
The first line is its own, `{"event": "ready", …}`. Names are resolved and addresses cleared of credentials before: what
is given here is taken as it is.
"""

import asyncio
import json
import os
import queue
import sys
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rattler import Channel, Gateway, RepoDataRecord
    from rattler.repo_data.multi_source import MultiSource

#: Bytes that one file may have: several times what a large channel's list takes.
_FILE = 2 << 30


class _Desk:
    """
    Answers requests. `open` comes before the others.

    Each method takes what stands in a request, and gives what stands in the answer.
    """

    def __init__(self) -> None:
        self._gateway: Gateway
        self._request: Mapping[str, Any] = {}

    async def open(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """
        Say how channels are reached.

        Keys: `cache`, a directory; `offline`, whether only what was fetched before is used; `sharded`; `timeout`,
        seconds for one HTTP request; `mirrors`, addresses by the beginning that they stand for; `headers`, lists of
        host, beginning of the path and the `Authorization` that is sent there.
        """
        from rattler import Client, Gateway, SourceConfig
        from rattler.networking import AddHeadersMiddleware, MirrorMiddleware, RetryMiddleware

        headers = [tuple(each) for each in request["headers"]]

        def authorization(host: str, path: str) -> dict[str, str] | None:
            for wanted, start, value in headers:
                if host == wanted and (path == start.rstrip("/") or path.startswith(f"{start.rstrip('/')}/")):
                    return {"Authorization": value}
            return None

        # NOTE: retries stand before mirrors, or else a mirror that is down would be an error.
        mirrors = [MirrorMiddleware(request["mirrors"])] if request["mirrors"] else []
        client = Client(
            [RetryMiddleware(request["retries"]), *mirrors, AddHeadersMiddleware(authorization)],
            timeout=request["timeout"],
        )
        config = SourceConfig(
            sharded_enabled=request["sharded"],
            cache_action="force-cache-only" if request["offline"] else "cache-or-fetch",
        )
        self._gateway = Gateway(cache_dir=request["cache"], default_config=config, client=client)
        return {"event": "open"}

    async def solve(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """
        Solve `specs` over `channels`, in their order, for `platforms` with the `virtual` packages and no others.

        Keys besides: `names`, those of the specs; `as_of`, a UTC time or null; `pip`, whether Python needs pip.
        """
        from rattler import ChannelPriority, GenericVirtualPackage, MatchSpec, PackageName, Version, solve
        from rattler.package import BuildString

        # NOTE: what is asked for directly is loaded only as far as it matches, and then a channel that has the name
        # without a version that fits would not count for strict priority. So the bare names are asked for, too.
        specs = [MatchSpec(each) for each in (*request["specs"], *request["names"])]
        as_of = datetime.fromisoformat(request["as_of"]).astimezone(UTC) if request["as_of"] else None
        records = await solve(
            [_source(each) for each in request["channels"]],
            specs,
            gateway=self._gateway,
            platforms=request["platforms"],
            virtual_packages=[
                GenericVirtualPackage(PackageName(name), Version(version), BuildString(build))
                for name, version, build in request["virtual"]
            ],
            channel_priority=ChannelPriority.Strict,
            exclude_newer=as_of,
            add_pip_as_python_dependency=request["pip"],
        )
        return {"event": "solved", "records": [_record(each) for each in records]}

    async def names(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """All names that `channels` have for `platforms`."""
        sources = [_source(each) for each in request["channels"]]
        found = await self._gateway.names(sources, request["platforms"])
        return {"event": "names", "names": sorted(each.normalized for each in found)}

    async def query(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """All that `channels` have of the package `name` for `platforms`, by version; `matches` if it fits `spec`."""
        from rattler import MatchSpec

        sources = [_source(each) for each in request["channels"]]
        found = await self._gateway.query(sources, request["platforms"], [request["name"]], recursive=False)
        spec = MatchSpec(request["spec"]) if request["spec"] else None
        records = sorted((record for each in found for record in each), key=lambda each: (each.version, each.url))
        told = [_record(each) | {"matches": spec is None or spec.matches(each)} for each in records]
        return {"event": "found", "records": told}

    async def spell(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The `specs` as the solver writes them in its explanations."""
        from rattler import MatchSpec

        return {"event": "spelled", "specs": [str(MatchSpec(each)) for each in request["specs"]]}


def _source(channel: Mapping[str, Any]) -> "Channel | MultiSource":
    """A channel of one address, or one name for several."""
    from rattler import Channel
    from rattler.repo_data.multi_source import MultiSource

    found = [Channel(f"{url}/") for url in channel["urls"]]
    return found[0] if len(found) == 1 and not channel["multiple"] else MultiSource(channel["name"], found)


def _record(record: "RepoDataRecord") -> dict[str, Any]:
    """What is told of a package, as plain data."""
    return {
        "name": record.name.normalized,
        "version": str(record.version),
        "build": str(record.build),
        "build_number": record.build_number,
        "subdir": record.subdir,
        "channel": record.channel,
        "url": record.url,
        "filename": record.file_name,
        "size": record.size,
        "sha256": record.sha256.hex() if record.sha256 else None,
        "md5": record.md5.hex() if record.md5 else None,
        "depends": list(record.depends),
        "constrains": list(record.constrains),
        "noarch": _noarch(record),
        "timestamp": round(record.timestamp.timestamp() * 1000) if record.timestamp else None,
        "license": record.license,
        "site_packages": record.python_site_packages_path,
    }


def _noarch(record: "RepoDataRecord") -> str | None:
    if record.noarch.python:
        return "python"
    return "generic" if record.noarch.generic else None


def _failure(error: BaseException) -> dict[str, Any]:
    """An exception as an answer."""
    return {"event": "failed", "kind": type(error).__name__, "text": str(error)}


def _limit(memory: int) -> None:
    if memory and sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        # What a channel sends becomes files of the cache; and what is told of it, one that stderr is.
        resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE, _FILE))


def _read(requests: "queue.SimpleQueue[bytes]") -> None:
    """Pass lines on; whoever started this process is gone when they end, and so is this process."""
    for line in sys.stdin.buffer:
        requests.put(line)
    os._exit(0)


def _say(answer: Mapping[str, Any]) -> None:
    sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
    sys.stdout.buffer.flush()


async def _serve(requests: "queue.SimpleQueue[bytes]") -> None:
    import rattler

    alias = str(rattler.Channel("x").base_url).removesuffix("/").removesuffix("/x")
    _say({"event": "ready", "version": rattler.__version__, "alias": alias})
    desk = _Desk()
    while True:
        request = json.loads(await asyncio.to_thread(requests.get))
        try:
            answer = await getattr(desk, request["operation"])(request)
        except BaseException as error:  # noqa: BLE001 - a panic in Rust, too, which is no `Exception`
            answer = _failure(error)
        _say(answer)


def main() -> None:
    """Serve until the input ends. The one argument is how many bytes of memory may be used; 0 for any, and no limits."""
    _limit(int(sys.argv[1]))
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(requests,), daemon=True).start()
    code = 1
    try:
        asyncio.run(_serve(requests))
    finally:
        # NOTE: rattler's threads may crash an orderly end of the interpreter.
        sys.stdout.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
