"""A base image of a shell and a few programs of this machine: small, so that building on it takes a moment."""

import io
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

from support.images import CONFIG, MANIFEST, TAR, LayoutBuilder, digest_of, pack

PROGRAMS = ("sh", "cat", "ls", "id", "env", "find", "mkdir", "touch", "sleep", "cp", "rm", "readlink", "mknod", "mount")


def make_tiny_base(directory: Path) -> Path:
    """An OCI layout with one image, whose programs are in `/usr/bin`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for link in ("bin", "lib", "lib64", "sbin"):
            info = tarfile.TarInfo(link)
            info.type, info.linkname = tarfile.SYMTYPE, f"usr/{link}"
            tar.addfile(info)
        for name in ("tmp", "etc", "root", "run", "proc", "sys", "dev"):
            info = tarfile.TarInfo(name)
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(info)
        for path in sorted({file for program in PROGRAMS for file in _files(program)}):
            tar.add(Path(path).resolve(), f"usr{path.removeprefix('/usr')}", recursive=False, filter=_plain)
    tar_bytes = buffer.getvalue()
    builder = LayoutBuilder(directory)
    config = {
        "os": "linux",
        "architecture": "amd64",
        "config": {"Env": ["PATH=/usr/bin"], "Cmd": ["/usr/bin/sh"]},
        # NOTE: buildah wants as many entries as there are layers.
        "history": [{"created": "2020-01-01T00:00:00Z", "created_by": "tests"}],
        "rootfs": {"type": "layers", "diff_ids": [digest_of(tar_bytes)]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": builder.document(config, CONFIG),
        "layers": [builder.blob(pack(tar_bytes, "gzip"), f"{TAR}+gzip")],
    }
    return builder.finish(builder.document(manifest, MANIFEST))


def _files(program: str) -> list[str]:
    """A program and the libraries it is linked with (`ldd(1)`), by the paths at which they are looked for."""
    path = shutil.which(program, path="/usr/bin:/bin")
    assert path is not None, f"there is no {program} on this machine"
    said = subprocess.run(["ldd", path], capture_output=True, text=True, check=False).stdout
    return [path, *re.findall(r"(?:=> |\t)(/\S+) \(", said)]


def _plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = ""
    info.mode = 0o755
    return info
