"""Bytes that `mlenv environment push` sends for a version, and for the next one, of which one package changed."""

import base64
import hashlib
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from random import Random

from benchmarks.engines import index, registry

#: Sizes of the packages, in bytes: a few that are large, many that are small.
_SIZES = (20_000_000, 8_000_000, 3_000_000, *[400_000] * 10, *[60_000] * 25)
_BASE = "example.org/base:1"
_TAR = "application/vnd.oci.image.layer.v1.tar"
_MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"


@dataclass(frozen=True, slots=True)
class Sent:
    """
    What one push brought to the registry.

    Attributes:
        image: Sizes of new blobs that are the image's: layers, configuration, manifest. In bytes.
        evidence: Sizes of the others: what tells how the image came to be.
    """

    version: str
    image: tuple[int, ...]
    evidence: tuple[int, ...]


def one_package_changed(scratch: Path) -> list[Sent]:
    """Push a version, then one of which the smallest package changed."""
    wheels = scratch / "wheels"
    wheels.mkdir()
    for number, size in enumerate(_SIZES):
        _wheel(wheels, f"package{number}", "1.0", size)
    last = len(_SIZES) - 1
    _wheel(wheels, f"package{last}", "2.0", _SIZES[-1])
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MLENV_")}
    environment |= {"MLENV_HOME": str(scratch / "home"), "MLENV_OUTPUT": "json"}

    def mlenv(*arguments: str) -> None:
        command = [sys.executable, "-m", "mlenv", *arguments]
        done = subprocess.run(command, env=environment, cwd=scratch, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")

    found: list[Sent] = []
    with index(wheels) as url, registry(scratch / "registry") as target:
        mlenv("base", "import", f"oci:{_base(scratch / 'base')}", "--name", _BASE)
        there: dict[str, int] = {}
        for version in ("1", "2"):
            pins = [f"package{number}=={'1.0' if number < last else f'{version}.0'}" for number in range(len(_SIZES))]
            (scratch / f"{version}.txt").write_text("\n".join([f"--index-url {url}", *pins]))
            document = {"name": "bench", "version": version, "image": _BASE, "requirements": f"{version}.txt"}
            (scratch / f"{version}.yml").write_text(json.dumps(document))
            mlenv("environment", "create", "--file", f"{version}.yml")
            mlenv("environment", "lock", f"bench:{version}", "--no-bytecode")
            mlenv("environment", "push", f"bench:{version}", f"{target.address}/bench:{version}")
            now = _stored(scratch / "registry/data")
            digest, _ = target.manifest("bench", version)
            image = {each.removeprefix("sha256:") for each in (digest, *target.blobs("bench", version))}
            new = now.keys() - there.keys()
            sizes = [tuple(sorted(now[each] for each in part)) for part in (new & image, new - image)]
            found.append(Sent(version, *sizes))
            there = now
    return found


def _stored(root: Path) -> dict[str, int]:
    """All blobs of a registry on disk, with sizes: what it was sent, manifests included."""
    return {path.parent.name: path.stat().st_size for path in root.glob("docker/registry/v2/blobs/sha256/*/*/data")}


def _wheel(directory: Path, name: str, version: str, size: int) -> None:
    """A wheel whose files do not compress."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}/__init__.py": f"VERSION = {version!r}\n".encode(),
        f"{name}/data.bin": Random(f"{name}-{version}").randbytes(size),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: benchmark\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},sha256={_hash(data)},{len(data)}\n" for path, data in files.items())
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    with zipfile.ZipFile(directory / f"{name}-{version}-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        for path, data in files.items():
            wheel.writestr(zipfile.ZipInfo(path, (2020, 1, 1, 0, 0, 0)), data)


def _hash(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def _base(root: Path) -> Path:
    """An OCI layout with an image that has a Python, as far as reading it tells."""
    import io
    import platform
    import tarfile

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, data in ((f"usr/local/bin/python{_MINOR}", b"elf"), ("etc/os-release", b"ID=example\n")):
            member = tarfile.TarInfo(path)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    blobs = root / "blobs/sha256"
    blobs.mkdir(parents=True)

    def keep(data: bytes, media_type: str) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    layer = keep(buffer.getvalue(), _TAR)
    variables = ["PATH=/usr/local/bin:/usr/bin", f"PYTHON_VERSION={platform.python_version()}"]
    config = {
        "os": "linux",
        "architecture": "amd64",
        "config": {"Env": variables},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    }
    kind = "application/vnd.oci.image"
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{kind}.manifest.v1+json",
        "config": keep(json.dumps(config).encode(), f"{kind}.config.v1+json"),
        "layers": [layer],
    }
    entry = keep(json.dumps(manifest).encode(), f"{kind}.manifest.v1+json")
    (root / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (root / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return root
