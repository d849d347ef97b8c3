"""
Rattler's own installation of packages from files, in a process of its own, as it has to be.

    python rattler_install.py JSON

where the JSON has `packages` (a list of `path` and `record`), `prefix`, `final`, the prefix that files are to name, and
`cache`. What is in the prefix' records is printed as JSON, with the seconds that the installation took.
"""

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from rattler import PackageRecord, PrefixRecord, RepoDataRecord, Subdir, install
from rattler.package import BuildString


def _record(path: str, record: dict[str, Any]) -> RepoDataRecord:
    made = PackageRecord(
        name=record["name"],
        version=record["version"],
        build=BuildString(record["build"]),
        build_number=record["build_number"],
        subdir=record["subdir"],
        noarch=record.get("noarch"),
        depends=record["depends"],
        constrains=record["constrains"],
        sha256=bytes.fromhex(record["sha256"]),
        md5=bytes.fromhex(record["md5"]),
        size=record["size"],
    )
    return RepoDataRecord(made, Path(path).name, Path(path).as_uri(), "https://conda.example.org/main/")


def read_records(prefix: str) -> dict[str, list[str]]:
    """Name, version, build and files of what rattler finds installed."""
    found = {}
    for path in sorted(Path(prefix, "conda-meta").glob("*.json")):
        record = PrefixRecord.from_path(path)
        found[path.stem] = sorted(str(each) for each in record.files)
        assert path.stem == f"{record.name.normalized}-{record.version}-{record.build}"
    return found


async def _main(request: dict[str, Any]) -> None:
    started = time.perf_counter()
    if request["packages"]:
        await install(
            [_record(each["path"], each["record"]) for each in request["packages"]],
            request["prefix"],
            cache_dir=request["cache"],
            alternative_target_prefix=request["final"],
            platform=Subdir("linux-64"),
            show_progress=False,
        )
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "records": read_records(request["prefix"])}))  # noqa: T201


if __name__ == "__main__":
    asyncio.run(_main(json.loads(sys.argv[1])))
    sys.stdout.flush()
    # NOTE: the interpreter's own end crashes now and then after an installation.
    os._exit(0)
