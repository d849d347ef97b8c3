"""
Rattler's own installation, in a process of its own: `python -m benchmarks.conda_install JSON`.

Asked for are `packages`, a list of `name`, `version`, `url` and `sha256`, the `prefix` and the `cache`; told are the
seconds of the installation alone, without the start of Python and the import.
"""

import asyncio
import json
import os
import sys
import time
from typing import Any

from rattler import PackageRecord, RepoDataRecord, Subdir, install
from rattler.package import BuildString


def _record(each: dict[str, str]) -> RepoDataRecord:
    made = PackageRecord(
        name=each["name"],
        version=each["version"],
        build=BuildString("0"),
        build_number=0,
        subdir="linux-64",
        sha256=bytes.fromhex(each["sha256"]),
    )
    return RepoDataRecord(made, each["url"].rpartition("/")[2], each["url"], each["url"].rpartition("/linux-64/")[0])


async def _install(request: dict[str, Any]) -> float:
    records = [_record(each) for each in request["packages"]]
    started = time.perf_counter()
    await install(
        records, request["prefix"], cache_dir=request["cache"], platform=Subdir("linux-64"), show_progress=False
    )
    return time.perf_counter() - started


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_install(json.loads(sys.argv[1])))))
    sys.stdout.flush()
    # NOTE: the interpreter's own end crashes now and then after an installation.
    os._exit(0)
