"""
The records that make a directory a conda environment: `conda-meta/NAME-VERSION-BUILD.json` and `conda-meta/history`.

What conda, mamba and rattler read of them is written, and nothing of the machine that writes it: no cache path, no time.
"""

import json
from collections.abc import Iterable
from typing import Any, Final

from mlenv.core.conda_contents import RECORDS
from mlenv.core.conda_package import CondaPackage
from mlenv.core.conda_tree import CondaTree

HISTORY: Final = f"{RECORDS}/history"
#: sha256 of nothing: what conda-build and rattler write for links.
_EMPTY: Final = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def record_path(package: CondaPackage) -> str:
    """Where a package's record lies, relative to the prefix. Clients ignore a file of another name."""
    return f"{RECORDS}/{package.stem}.json"


def record(tree: CondaTree) -> bytes:
    """The record of a package all of whose files were read."""
    package = tree.package
    document: dict[str, Any] = {
        "name": package.name,
        "version": package.version,
        "build": package.build,
        "build_number": package.build_number,
        "subdir": package.subdir,
        "channel": f"{package.channel}/{package.subdir}",
        "fn": package.artifact.filename,
        "url": package.url,
        "sha256": package.artifact.digest.hex,
        "size": package.artifact.size,
        "depends": list(package.depends),
        "constrains": list(package.constrains),
        "files": sorted(tree.paths()),
        "paths_data": {"paths_version": 1, "paths": sorted(_paths(tree), key=lambda each: str(each["_path"]))},
        # 1 is a hard link (conda, `LinkType`); where from is nobody's business.
        "link": {"source": "", "type": 1},
        "extracted_package_dir": "",
        "package_tarball_full_path": "",
        "requested_specs": [],
    }
    optional = {
        "md5": package.md5,
        "noarch": package.noarch,
        "timestamp": package.timestamp,
        "license": package.license,
        "python_site_packages_path": package.site_packages,
    }
    document |= {key: value for key, value in optional.items() if value is not None}
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode() + b"\n"


def _paths(tree: CondaTree) -> Iterable[dict[str, object]]:
    for entry in tree.contents.paths.values():
        path = tree.place(entry.path)
        if entry.kind != "hardlink":
            yield {"_path": path, "path_type": entry.kind, "sha256": _EMPTY, "size_in_bytes": 0} | (
                {"sha256_in_prefix": tree.hashes[path]} if entry.kind == "softlink" else {}
            )
            continue
        row: dict[str, object] = {
            "_path": path,
            "path_type": "hardlink",
            "sha256": entry.sha256,
            "sha256_in_prefix": tree.hashes[path],
            "size_in_bytes": entry.size,
        }
        if entry.placeholder is not None:
            row |= {"file_mode": entry.mode, "prefix_placeholder": entry.placeholder}
        yield {key: value for key, value in row.items() if value is not None}
    for point in tree.contents.entry_points:
        path = f"bin/{point.name}"
        yield {"_path": path, "path_type": "unix_python_entry_point", "sha256_in_prefix": tree.hashes[path]}


def history(packages: Iterable[CondaPackage], *, when: str = "2020-01-01 00:00:00") -> str:
    """
    `conda-meta/history`, by which conda knows an environment, and what its user asked for.

    Args:
        packages: Of the lock.
        when: A time that says nothing, since it is the same in every image.
    """
    ordered = sorted(packages, key=lambda each: each.name)
    lines = [f"==> {when} <==", *(f"+{each.channel}/{each.subdir}::{each.stem}" for each in ordered)]
    asked = [each.requested for each in ordered if each.requested is not None]
    if asked:
        lines.append(f"# update specs: {json.dumps(asked)}")
    return "".join(f"{line}\n" for line in lines)
