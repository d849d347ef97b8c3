"""
A minimal base image with Python, from Debian packages, without a daemon: `mmdebstrap` and one normalised layer.

The same packages give the same image: every time stamp, log and cache is taken out, and Debian's own bytecode, whose
validity hangs on time stamps, is replaced by bytecode that is taken as it is (PEP 552, unchecked-hash).
"""

import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Final, Literal

from mlenv.build.assemble import store_image
from mlenv.build.compression import open_stream
from mlenv.build.interface import Blobs
from mlenv.core.image import Image
from mlenv.core.layer import MTIME, Compression, Layer
from mlenv.core.platform import Platform
from mlenv.core.progress import Progress, Silent
from mlenv.errors import InvalidInput, Unavailable

Mode = Literal["auto", "root", "unshare", "fakechroot"]

#: The suites that are known to work, and what each needs besides the common packages.
SUITES: Final = {"bookworm": ("usr-is-merged",), "trixie": ()}
_COMMON: Final = ("python3", "ca-certificates")
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_EXCLUDED: Final = ("/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/doc/*")
#: The host's name and resolver, logs, caches, and what differs from one installation to the next.
_DROPPED: Final = re.compile(
    r"dev/.+|etc/hostname|etc/resolv\.conf|etc/machine-id|var/log/.+|var/cache/.+/.+|var/cache/[^/]+\.(dat|bin).*"
    r"|var/lib/apt/.+|var/lib/dpkg/(lock.*|.*-old|triggers/Lock)|etc/(passwd|group|shadow|gshadow|subuid|subgid)-"
    r"|tmp/.+|run/.+|var/tmp/.+|etc/apt/apt\.conf\.d/99mmdebstrap|etc/apt/sources\.list.*|.*\.dpkg-(old|new|dist)"
)
_PACKAGE: Final = re.compile(r"[a-z0-9][a-z0-9+.-]+(=[A-Za-z0-9.+:~-]+)?")
#: In bookworm, `usrmerge` would be chosen for what `usr-is-merged` gives as well, and bring all of perl. So it is kept
#: out, and the links that it would make are made first.
_PIN: Final = (
    'set -e; mkdir -p "$1/etc/apt/preferences.d"; '
    r"""printf 'Package: usrmerge\nPin: release *\nPin-Priority: -1\n' > "$1/etc/apt/preferences.d/usrmerge"; """
    'eval "$(APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-config shell ARCH Apt::Architecture)"; '
    'dirs="bin sbin lib"; [ "$ARCH" != amd64 ] || dirs="$dirs lib64"; '
    'for dir in $dirs; do mkdir -p "$1/usr/$dir"; ln -s "usr/$dir" "$1/$dir"; done'
)
_UNPIN: Final = 'rm -f "$1/etc/apt/preferences.d/usrmerge"'
_COMPILE: Final = (
    'find "$1/usr/lib" -depth -name __pycache__ -type d -exec rm -r {} + ; '
    'for lib in "$1"/usr/lib/python3.*; do [ -e "$lib/os.py" ] || continue; '
    'env -i PATH="$PATH" PYTHONHASHSEED=0 LC_ALL=C.UTF-8 chroot "$1" "/usr/bin/${lib##*/}" -B -S -m compileall -q -f '
    '--invalidation-mode unchecked-hash -x "/(test|tests|lib2to3|idlelib)/" "/usr/lib/${lib##*/}"; done'
)


class NoMmdebstrap(Unavailable):
    """The tool that makes Debian bases is not installed."""

    hint = "install it with `apt install mmdebstrap` (Debian, Ubuntu), or import a base from an OCI archive"

    def __init__(self) -> None:
        super().__init__("mmdebstrap is not installed: it is needed to make a Debian base")


class DebianBaseFailed(Unavailable):
    """mmdebstrap ran and failed. Its last lines are in `detail`."""

    hint = "see what it said with --verbose; check that the Debian mirror answers, or name another with --mirror"

    def __init__(self, suite: str, code: int, lines: Sequence[str]) -> None:
        error = next((line for line in lines if line.startswith("E:")), lines[-1] if lines else "it said nothing")
        super().__init__(f"mmdebstrap could not make {suite} (exit code {code}): {shorten(error, 300)}")
        self.suite, self.code, self.detail = suite, code, "\n".join(lines[-40:])
        if "foreign architecture" in error:
            self.hint = "for another architecture than the host's, install arch-test and qemu-user-static"


def create_debian_base(
    suite: str,
    *,
    blobs: Blobs,
    workdir: Path,
    packages: Sequence[str] = (),
    progress: Progress | None = None,
    platform: Platform | None = None,
    mirror: str | None = None,
    mode: Mode = "auto",
    timeout: float = 1800,
) -> Image:
    """
    Make a Debian base with Python.

    Args:
        suite: `bookworm` (Python 3.11) or `trixie` (3.13).
        blobs: Where the image goes.
        workdir: An existing directory for temporary files, some 200 MB.
        packages: Debian packages to add.
        platform: `linux/amd64` or `linux/arm64`; another than the host's needs qemu; None means the host's.
        mirror: Where the packages come from; None leaves it to mmdebstrap and the host's apt.
        timeout: For all of it, in seconds.

    Raises:
        InvalidInput: An unknown suite, or something that is no package name.
        NoMmdebstrap: It is not installed.
        DebianBaseFailed: It failed.
    """
    progress = progress or Silent()
    if suite not in SUITES:
        raise InvalidInput(f"not a known Debian suite: {suite!r}, expected one of {', '.join(SUITES)}")
    for each in packages:
        if not _PACKAGE.fullmatch(each):
            raise InvalidInput(f"not a Debian package: {each!r}")
    if mirror is not None and mirror.startswith("-"):
        raise InvalidInput(f"not a mirror: {mirror!r}")
    program = shutil.which("mmdebstrap")
    if program is None:
        raise NoMmdebstrap
    raw = workdir / f"{suite}.tar"
    try:
        include = ",".join([*SUITES[suite], *_COMMON, *packages])
        _run(_command(program, suite, include, raw, platform, mirror, mode), suite, workdir, progress, timeout)
        with progress.step("Storing the base"), tarfile.open(raw, "r:") as source:
            layer = _store_layer(source, blobs)
            machine = platform or _platform_of(source)
            listing = _packages(source)
    finally:
        raw.unlink(missing_ok=True)
    config = {
        "architecture": machine.architecture,
        "os": "linux",
        "config": {
            "Env": [f"PATH={_PATH}"],
            "Cmd": ["/bin/bash"],
            "Labels": {"dev.mlenv.base": f"debian:{suite}"},
        },
    }
    return store_image(config, [layer], blobs, annotations={"dev.mlenv.base.packages": listing})


def _command(
    program: str, suite: str, include: str, target: Path, platform: Platform | None, mirror: str | None, mode: Mode
) -> list[str]:
    command = [
        program,
        f"--mode={mode}",
        "--variant=minbase",
        "--format=tar",
        "--skip=output/dev",
        "--skip=output/mknod",
    ]
    command += [f"--include={include}", '--aptopt=APT::Install-Recommends "false"']
    command += [f"--dpkgopt=path-exclude={pattern}" for pattern in _EXCLUDED]
    command += ["--dpkgopt=path-include=/usr/share/doc/*/copyright", f"--customize-hook={_COMPILE}"]
    if suite == "bookworm":
        command += [f"--setup-hook={_PIN}", f"--customize-hook={_UNPIN}"]
    if platform:
        command.append(f"--architectures={platform.architecture}")
    return [*command, suite, str(target), *([mirror] if mirror else [])]


def _run(command: list[str], suite: str, workdir: Path, progress: Progress, timeout: float) -> None:
    """Run mmdebstrap, and tell its steps as they come."""
    environment = {key: os.environ[key] for key in ("PATH", "HOME", "http_proxy", "https_proxy") if key in os.environ}
    environment |= {"SOURCE_DATE_EPOCH": str(MTIME), "TMPDIR": str(workdir), "LC_ALL": "C.UTF-8"}
    log = workdir / f"{suite}.log"
    with progress.step(f"Making a Debian {suite} base with mmdebstrap") as step, log.open("wb") as output:
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment
        ) as process:
            try:
                code = process.wait(timeout)
            except subprocess.TimeoutExpired as error:
                process.terminate()
                raise Unavailable(f"mmdebstrap did not finish {suite} within {timeout:.0f} s") from error
            except BaseException:
                process.terminate()
                raise
        lines = [line.strip() for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
        if code:
            raise DebianBaseFailed(suite, code, lines)
        step.note(lines[-1].removeprefix("I: ") if lines else "done")
    log.unlink()


def _store_layer(source: tarfile.TarFile, blobs: Blobs) -> Layer:
    """The root file system as one layer: sorted, with one time stamp, and nothing of this machine."""
    with blobs.writer() as writer:
        # NOTE: gzip, so that an image with gzip layers on top is one that every receiver takes.
        stream = open_stream(Compression.GZIP, writer)
        size = 0
        for info in _normalised(source):
            header = info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
            stream.write(header)
            size += len(header)
            if info.isreg() and (content := source.extractfile(info)):
                while chunk := content.read(1 << 20):
                    stream.write(chunk)
                stream.write(bytes(-info.size % 512))
        stream.write(bytes(1024))
        diff_id = stream.close()
        digest, stored = writer.commit()
    return Layer(digest, diff_id, stored, Compression.GZIP.media_type)


def _normalised(source: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    kept = []
    for info in source.getmembers():
        info.name = info.name.removeprefix("./").rstrip("/")
        if info.name in ("", ".") or _DROPPED.fullmatch(info.name) or info.ischr() or info.isblk() or info.isfifo():
            continue
        if info.islnk():
            info.linkname = info.linkname.removeprefix("./")
        kept.append(info)
    # A hard link comes after the file it names.
    for info in sorted(kept, key=lambda each: (each.islnk(), each.name.encode("utf-8", "surrogateescape"))):
        info.mtime, info.uname, info.gname, info.pax_headers = MTIME, "", "", {}
        yield info


def _platform_of(source: tarfile.TarFile) -> Platform:
    for line in _status(source).splitlines():
        if line.startswith("Architecture: ") and not line.endswith(" all"):
            return Platform.parse(f"linux/{line.removeprefix('Architecture: ').strip()}")
    raise InvalidInput("the new base has no Debian packages")


def _packages(source: tarfile.TarFile) -> str:
    """`name=version` of each Debian package, sorted, with spaces between."""
    names = re.findall(r"^Package: (\S+)$", _status(source), re.MULTILINE)
    versions = re.findall(r"^Version: (\S+)$", _status(source), re.MULTILINE)
    return " ".join(sorted(f"{name}={version}" for name, version in zip(names, versions, strict=True)))


def _status(source: tarfile.TarFile) -> str:
    # `_normalised` has taken the `./` from the names.
    for name in ("var/lib/dpkg/status", "./var/lib/dpkg/status"):
        try:
            file = source.extractfile(name)
        except KeyError:
            continue
        return file.read().decode() if file else ""
    return ""
