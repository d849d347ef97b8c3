"""
Make a small Debian image with Python, as an OCI archive, with mmdebstrap.

    python tools/debian_base.py FILE [--suite bookworm] [--include PACKAGE]…

For the tests and the benchmarks, which need a base image that does not depend on the code they judge. Users have
`mlenv base create`.
"""

import argparse
import hashlib
import io
import json
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from isal import igzip

#: The time stamp of every file (2020-01-01T00:00:00Z), in seconds.
_EPOCH = "1577836800"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
#: What differs from run to run, or is no use in an image.
_REMOVED = "/etc/hostname /etc/resolv.conf /var/cache/ldconfig/aux-cache /var/cache/apt/*.bin /var/log/*.log"


def make_root(target: Path, suite: str, packages: Sequence[str]) -> None:
    """Write the root file system as a tar, with Debian's Python and `packages`. Takes about 40 seconds."""
    included = ",".join(("python3", "ca-certificates", *packages))
    customize = f'cd "$1" && for f in {_REMOVED}; do rm -f ".$f"; done; rm -rf var/log/apt var/lib/apt/lists/*'
    command = ["mmdebstrap", "--mode=root", "--variant=minbase", f"--include={included}"]
    command += ["--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*"]
    command += [f"--customize-hook={customize}", suite, str(target)]
    subprocess.run(command, env={**os.environ, "SOURCE_DATE_EPOCH": _EPOCH}, check=True, capture_output=True)


class _Archive:
    """An OCI image layout being written as a tar (image-spec, image-layout.md)."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar

    def add(self, name: str, content: bytes) -> None:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        self._tar.addfile(member, io.BytesIO(content))

    def blob(self, media_type: str, content: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(content).hexdigest()
        self.add(f"blobs/sha256/{digest}", content)
        return {
            "mediaType": f"application/vnd.oci.image.{media_type}",
            "digest": f"sha256:{digest}",
            "size": len(content),
        }

    def json(self, media_type: str, document: dict[str, Any]) -> dict[str, Any]:
        return self.blob(media_type, json.dumps(document, sort_keys=True).encode())


def write_archive(target: Path, root: Path) -> None:
    """Write an OCI archive of one layer: the tar `root`, compressed with gzip."""
    content = root.read_bytes()
    config = {
        "architecture": _ARCHITECTURES[os.uname().machine],
        "os": "linux",
        "created": "2020-01-01T00:00:00Z",
        "config": {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["bash"]},
        # buildah refuses to build on an image whose history does not tell of each layer.
        "history": [{"created": "2020-01-01T00:00:00Z", "created_by": "mmdebstrap"}],
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(content).hexdigest()]},
    }
    with tarfile.open(target, "w") as tar:
        archive = _Archive(tar)
        archive.add("oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        layer = archive.blob("layer.v1.tar+gzip", igzip.compress(content, mtime=0))
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": archive.json("config.v1+json", config),
            "layers": [layer],
        }
        entry = archive.json("manifest.v1+json", manifest)
        archive.add("index.json", json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode())


def main() -> None:
    """Make the image and move it to its place when it is whole."""
    parser = argparse.ArgumentParser(description="Make a small Debian image with Python, as an OCI archive.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--suite", default="bookworm")
    parser.add_argument("--include", action="append", default=[], metavar="PACKAGE")
    arguments = parser.parse_args()
    arguments.file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.file.parent) as scratch:
        root, archive = Path(scratch) / "root.tar", Path(scratch) / "image.tar"
        make_root(root, arguments.suite, arguments.include)
        write_archive(archive, root)
        archive.rename(arguments.file)


if __name__ == "__main__":
    main()
