"""The operating system under a base image's Python: release, glibc, CUDA, cuDNN."""

import json
import re
import shlex
from collections.abc import Mapping
from typing import Final

from mlenv.build.facts_tree import Interest, Tree
from mlenv.core.platform import Glibc

_MIB: Final = 1 << 20
_LIBRARIES: Final = (
    "/lib/x86_64-linux-gnu",
    "/lib/aarch64-linux-gnu",
    "/lib64",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/lib",
)
_CUDA_LIBRARIES: Final = ("/usr/local/cuda/lib64", "/usr/local/cuda/targets/x86_64-linux/lib", *_LIBRARIES)
_STATUS: Final = re.compile(rb"^(?:Package|Status|Version): .*$", re.MULTILINE)
_GLIBC: Final = re.compile(rb"GNU C Library [^\n\0]{0,200}? release version (\d+\.\d+)")


def _whole(data: bytes) -> bytes:
    return data


def _status(data: bytes) -> bytes:
    return b"\n".join(_STATUS.findall(data))


def _glibc(data: bytes) -> bytes | None:
    match = _GLIBC.search(data)
    return match[1] if match else None


def _cudnn_header(data: bytes) -> bytes | None:
    parts = [re.search(rb"#define CUDNN_%s (\d+)" % part, data) for part in (b"MAJOR", b"MINOR", b"PATCHLEVEL")]
    found = [match[1] for match in parts if match]
    return b".".join(found) if len(found) == 3 else None


SYSTEM_INTERESTS: Final = (
    Interest(re.compile(r"(?:etc|usr/lib)/os-release"), 64 << 10, _whole),
    Interest(re.compile(r"var/lib/dpkg/status"), 64 * _MIB, _status),
    Interest(re.compile(r"var/lib/dpkg/status\.d/[^/]+"), 1 * _MIB, _status),
    Interest(re.compile(r"(?:usr/)?lib/apk/db/installed"), 64 * _MIB, _whole),
    Interest(re.compile(r"(?:usr/)?lib(?:32|64)?/(?:[^/]+/)?(?:libc\.so\.6|libc-2\.\d+\.so)"), 16 * _MIB, _glibc),
    Interest(re.compile(r"usr/local/cuda[^/]*/version\.(?:json|txt)"), 64 << 10, _whole),
    Interest(re.compile(r"(?:.*/)?include/(?:[^/]+/)?cudnn(?:_version[^/]*)?\.h"), 1 * _MIB, _cudnn_header),
)


def os_release(tree: Tree) -> dict[str, str]:
    """`/etc/os-release` (freedesktop.org, os-release), which may be a link to `/usr/lib`."""
    data = tree.fact("/etc/os-release") or tree.fact("/usr/lib/os-release") or b""
    release = {}
    for line in data.decode("utf-8", "replace").splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            try:
                words = shlex.split(value)
            except ValueError:
                continue
            release[key.strip()] = " ".join(words)
    return release


def dpkg_version(tree: Tree, package: str) -> str | None:
    """The version of an installed Debian package, as dpkg writes it, or None."""
    status = tree.fact("/var/lib/dpkg/status") or b""
    match = re.search(
        rb"^Package: %s\nStatus: \S+ \S+ installed\nVersion: (\S+)$" % re.escape(package.encode()), status, re.MULTILINE
    )
    return match[1].decode("utf-8", "replace") if match else None


def find_glibc(tree: Tree) -> Glibc | None:
    """From the C library itself, else from the package that brought it."""
    for directory in _LIBRARIES:
        if fact := tree.fact(f"{directory}/libc.so.6"):
            return Glibc.parse(fact.decode())
    version = re.match(r"(?:\d+:)?(\d+\.\d+)", dpkg_version(tree, "libc6") or "")
    return Glibc.parse(version[1]) if version else None


def find_cuda(tree: Tree, variables: Mapping[str, str]) -> str | None:
    """From CUDA's own version file, its runtime library, its directory's name, or the image's variables, in this order."""
    for directory in ("cuda", *(each for each in tree.names("/usr/local")[::-1] if each.startswith("cuda-"))):
        if found := _cuda_of_directory(tree, f"/usr/local/{directory}"):
            return found
    if found := _from_library_name(tree, _CUDA_LIBRARIES, "libcudart", 2):
        return found
    for name in tree.names("/usr/local")[::-1]:
        if match := re.fullmatch(r"cuda-(\d+\.\d+)", name):
            return match[1]
    match = re.match(r"\d+\.\d+", variables.get("CUDA_VERSION", ""))
    return match[0] if match else None


def _cuda_of_directory(tree: Tree, directory: str) -> str | None:
    version = None
    if data := tree.fact(f"{directory}/version.json"):
        try:
            version = json.loads(data)["cuda"]["version"]
        except (ValueError, KeyError, TypeError, RecursionError):
            version = None
    elif data := tree.fact(f"{directory}/version.txt"):
        version = data.decode("ascii", "replace").removeprefix("CUDA Version ")
    match = re.match(r"\d+\.\d+", version) if isinstance(version, str) else None
    return match[0] if match else None


def find_cudnn(tree: Tree, variables: Mapping[str, str]) -> str | None:
    """From its header, its library's name, the package that brought it, or the image's variables, in this order."""
    for directory in (
        "/usr/include",
        "/usr/include/x86_64-linux-gnu",
        "/usr/include/aarch64-linux-gnu",
        "/usr/local/cuda/include",
    ):
        for name in tree.names(directory):
            if name.startswith("cudnn") and (fact := tree.fact(f"{directory}/{name}")):
                return fact.decode()
    if found := _from_library_name(tree, _CUDA_LIBRARIES, "libcudnn", 3):
        return found
    for package in ("libcudnn9-cuda-13", "libcudnn9-cuda-12", "libcudnn9-cuda-11", "libcudnn8", "libcudnn7"):
        if version := dpkg_version(tree, package):
            return ".".join(version.split("-")[0].split(".")[:3])
    match = re.match(r"\d+\.\d+\.\d+", variables.get("NV_CUDNN_VERSION", ""))
    return match[0] if match else None


def _from_library_name(tree: Tree, directories: tuple[str, ...], library: str, parts: int) -> str | None:
    """`12.4` of `libcudart.so.12.4.127`, where a library's full name is its version."""
    pattern = re.compile(rf"{re.escape(library)}\.so\.(\d+(?:\.\d+){{{parts - 1}}})(?:\.\d+)*")
    for directory in directories:
        for name in tree.names(directory):
            if match := pattern.fullmatch(name):
                return match[1]
    return None
