import json
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from support.images import Files, Hardlink, Symlink, make_image, new_store

from mlenv.build.facts import FactLimits, read_facts
from mlenv.build.images import import_image
from mlenv.build.unpacking import InvalidArchive
from mlenv.core.facts import BaseFacts, Interpreter
from mlenv.core.platform import Glibc, Platform

Read = Callable[..., BaseFacts]

LIBC = b"\x7fELF" + bytes(900_000) + b"GNU C Library (Debian GLIBC 2.36-9+deb12u10) stable release version 2.36.\n\0"
PYTHON = b"\x7fELF" + bytes(2_000_000) + b"\0Python %s\x003.11.2\0more\0"
STATUS = b"""\
Package: python3.11-minimal
Status: install ok installed
Priority: optional
Version: 3.11.2-6+deb12u6
Description: minimal
 Version: not this one

Package: libc6
Status: install ok installed
Version: 2.36-9+deb12u10

Package: gone
Status: deinstall ok config-files
Version: 1
"""


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def read(
        *layers: Files,
        env: Mapping[str, str] | None = None,
        compression: str = "gzip",
        limits: FactLimits | None = None,
    ) -> BaseFacts:
        directory, store = tmp_path / "image", new_store(tmp_path)
        shutil.rmtree(directory, ignore_errors=True)
        config: dict[str, Any] = {"Env": [f"{key}={value}" for key, value in (env or {}).items()]}
        make_image(directory, layers, config, compression=compression)
        return read_facts(import_image(f"oci:{directory}", store), store, limits=limits)

    return read


@pytest.mark.parametrize("compression", ["plain", "gzip", "zstd"])
def test_a_debian_base_with_merged_usr(read: Read, compression: str) -> None:
    facts = read(
        {
            "./bin": Symlink("usr/bin"),
            "./lib": Symlink("usr/lib"),
            "./etc/os-release": Symlink("../usr/lib/os-release"),
            "./usr/lib/os-release": b'# hi\nID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
            "./usr/lib/x86_64-linux-gnu/libc.so.6": LIBC,
            "./usr/bin/python3": Symlink("python3.11"),
            "./usr/bin/python3.11": b"elf",
            "./usr/bin/python": Symlink("/etc/alternatives/python"),
            "./etc/alternatives/python": Symlink("/usr/bin/python3"),
            "./var/lib/dpkg/status": STATUS,
        },
        compression=compression,
    )
    assert (facts.os_id, facts.os_version, facts.os_name) == ("debian", "12", "Debian GNU/Linux 12 (bookworm)")
    assert facts.glibc == Glibc(2, 36)
    assert facts.pythons == (Interpreter("/usr/bin/python3.11", "3.11.2", "/usr"),)
    assert (facts.packages, facts.layers, facts.platform) == (2, 1, Platform("linux", "amd64"))
    assert (facts.cuda, facts.cudnn, facts.conda_prefixes) == (None, None, ())


def test_nothing_is_known_of_an_empty_image(read: Read) -> None:
    facts = read({})
    assert facts == BaseFacts(facts.digest, Platform("linux", "amd64"), layers=1, size=facts.size)


def test_path_decides_the_order(read: Read) -> None:
    layer: Files = {
        "usr/local/bin/python3.12": b"elf",
        "usr/local/bin/python3": Symlink("python3.12"),
        "usr/local/include/python3.12/patchlevel.h": b'#define PY_VERSION              "3.12.7"\n',
        "usr/bin/python3.11": PYTHON,
        "usr/bin/python3.9": b"unknown",
        "root/.local/share/uv/python/cpython-3.13.1-linux-x86_64-gnu/bin/python3.13": b"elf",
        "root/.pyenv/versions/3.10.4/bin/python3.10": b"elf",
    }
    pythons = read(layer).pythons
    assert [(each.path.rsplit("/", 1)[1], each.version) for each in pythons] == [
        ("python3.12", "3.12.7"),
        ("python3.11", "3.11.2"),
        ("python3.9", "3.9"),
        ("python3.13", "3.13.1"),
        ("python3.10", "3.10.4"),
    ]
    assert read(layer, env={"PATH": "/usr/bin:/usr/local/bin"}).pythons[0].minor == "3.11"


def test_official_python_images_by_their_shared_library_or_variable(read: Read) -> None:
    python: Files = {"usr/local/bin/python3.11": b"elf", "usr/local/bin/python3": Symlink("python3.11")}
    [found] = read({**python, "usr/local/lib/libpython3.11.so.1.0": PYTHON}).pythons
    assert found == Interpreter("/usr/local/bin/python3.11", "3.11.2", "/usr/local")
    assert read(python, env={"PYTHON_VERSION": "3.11.9"}).pythons[0].version == "3.11.9"
    assert read(python, env={"PYTHON_VERSION": "3.12.1"}).pythons[0].version == "3.11"


def test_conda_prefixes_and_their_pythons(read: Read) -> None:
    facts = read(
        {
            "opt/conda/conda-meta/history": b"",
            "opt/conda/conda-meta/python-3.10.14-hd12c33a_0_cpython.json": b"{}",
            "opt/conda/pkgs/python-3.10.14-hd12c33a_0_cpython/bin/python3.10": b"elf",
            "opt/conda/bin/python3.10": Hardlink("opt/conda/pkgs/python-3.10.14-hd12c33a_0_cpython/bin/python3.10"),
            "opt/conda/bin/python": Symlink("python3.10"),
            "opt/conda/envs/ml/conda-meta/history": b"",
            "opt/conda/envs/ml/conda-meta/python-3.9.18-h955ad1f_0.json": b"{}",
            "opt/conda/envs/ml/bin/python3.9": b"elf",
            "opt/notconda/conda-meta": None,
        },
        env={"PATH": "/opt/conda/bin:/usr/bin"},
    )
    assert facts.conda_prefixes == ("/opt/conda", "/opt/conda/envs/ml")
    assert facts.pythons == (
        Interpreter("/opt/conda/bin/python3.10", "3.10.14", "/opt/conda", conda=True),
        Interpreter("/opt/conda/envs/ml/bin/python3.9", "3.9.18", "/opt/conda/envs/ml", conda=True),
    )


def test_whiteouts_hide_what_is_below(read: Read) -> None:
    below: Files = {"usr/bin/python3.11": PYTHON, "usr/bin/python3.9": b"elf", "etc/os-release": b"ID=debian"}
    assert len(read(below).pythons) == 2
    assert [each.minor for each in read(below, {"usr/bin/.wh.python3.9": b""}).pythons] == ["3.11"]
    assert read(below, {"usr/.wh.bin": b""}).pythons == ()
    opaque = read(below, {"usr/bin/python3.12": b"elf", "usr/bin/.wh..wh..opq": b""})
    assert [each.minor for each in opaque.pythons] == ["3.12"]
    assert opaque.os_id == "debian"


def test_a_whiteout_does_not_hide_its_own_layer(read: Read) -> None:
    facts = read({"usr/bin/python3.9": b"elf"}, {"usr/bin/python3.9": PYTHON, "usr/bin/.wh.python3.9": b""})
    assert [each.minor for each in facts.pythons] == ["3.9"]


def test_upper_layers_replace_lower_ones(read: Read) -> None:
    facts = read(
        {"etc/os-release": b"ID=one", "usr/bin/python3.11": b"elf", "lib": Symlink("usr/lib"), "usr/lib": None},
        {"etc/os-release": b"ID=two", "usr/bin/python3.11/file": b"", "lib/x86_64-linux-gnu/libc.so.6": LIBC},
    )
    assert (facts.os_id, facts.pythons, facts.glibc) == ("two", (), Glibc(2, 36))


@pytest.mark.parametrize(
    "layer",
    [
        {"usr/bin/python3": Symlink("python3"), "usr/bin/python3.11": Symlink("python3.12"), "a": Symlink("a/b")},
        {"usr/bin/python3.11": Symlink("../../../../../bin/python3.11"), "bin": Symlink("/usr/bin")},
        {"usr/bin/python3.11": None},
        {"usr": Symlink("usr"), "usr/bin/python3.11": b""},
        {"../../usr/lib/os-release": Symlink("/" * 50 + "etc/os-release")},
    ],
)
def test_links_that_lead_nowhere_are_no_pythons(read: Read, layer: Files) -> None:
    facts = read(layer)
    assert (facts.pythons, facts.os_id) == ((), None)


def test_links_stay_inside_the_image(read: Read) -> None:
    name = f"python3.{sys.version_info[1]}"
    target = "../" * 30 + sys.executable.lstrip("/")
    assert read({f"usr/bin/{name}": Symlink(target)}, {"etc/os-release": Symlink("/proc/self/environ")}).pythons == ()


@pytest.mark.parametrize(
    ("layer", "env", "expected"),
    [
        ({"usr/local/cuda-12.4/version.json": json.dumps({"cuda": {"version": "12.4.1"}}).encode()}, {}, "12.4"),
        ({"usr/local/cuda": Symlink("cuda-11"), "usr/local/cuda-11/version.txt": b"CUDA Version 11.0.3"}, {}, "11.0"),
        ({"usr/local/cuda-12.2/version.json": b"[[["}, {"CUDA_VERSION": "12.1.0"}, "12.2"),
        ({"usr/local/cuda/lib64/libcudart.so.12.1.105": b""}, {}, "12.1"),
        ({"usr/lib/x86_64-linux-gnu/libcudart.so.11.0": b""}, {}, "11.0"),
        ({}, {"CUDA_VERSION": "12.3.2"}, "12.3"),
        ({}, {"CUDA_VERSION": "none"}, None),
    ],
)
def test_cuda(read: Read, layer: Files, env: dict[str, str], expected: str | None) -> None:
    assert read(layer, env=env).cuda == expected


CUDNN_STATUS = b"Package: libcudnn9-cuda-12\nStatus: hold ok installed\nVersion: 9.1.0.70-1\n"


@pytest.mark.parametrize(
    ("layer", "env", "expected"),
    [
        (
            {
                "usr/include/cudnn_version.h": b"#define CUDNN_MAJOR 8\n#define CUDNN_MINOR 9\n#define CUDNN_PATCHLEVEL 7\n"
            },
            {},
            "8.9.7",
        ),
        ({"usr/lib/x86_64-linux-gnu/libcudnn.so.9.1.0": b""}, {}, "9.1.0"),
        ({"var/lib/dpkg/status": CUDNN_STATUS}, {}, "9.1.0"),
        ({}, {"NV_CUDNN_VERSION": "8.9.6.50-1"}, "8.9.6"),
        ({}, {}, None),
    ],
)
def test_cudnn(read: Read, layer: Files, env: dict[str, str], expected: str | None) -> None:
    assert read(layer, env=env).cudnn == expected


def test_glibc_from_an_old_library_or_from_its_package(read: Read) -> None:
    old = b"\0GNU C Library (Ubuntu GLIBC 2.31-0ubuntu9) stable release version 2.31.\n"
    library = "lib/x86_64-linux-gnu"
    assert read({f"{library}/libc.so.6": Symlink("libc-2.31.so"), f"{library}/libc-2.31.so": old}).glibc == Glibc(2, 31)
    assert read({"var/lib/dpkg/status": STATUS}).glibc == Glibc(2, 36)
    assert read({"opt/sysroot/lib64/libc.so.6": LIBC}).glibc is None


def test_alpine(read: Read) -> None:
    facts = read(
        {"lib/apk/db/installed": b"P:musl\nV:1\n\nP:busybox\nV:2\n", "etc/os-release": b"ID=alpine\nVERSION_ID=3.20"}
    )
    assert (facts.os_id, facts.packages, facts.glibc) == ("alpine", 2, None)


def test_limits(read: Read) -> None:
    with pytest.raises(InvalidArchive, match="more than 2 entries"):
        read({"a": b"", "b": b"", "c": b""}, limits=FactLimits(members=2))
    with pytest.raises(InvalidArchive, match="unpacks to more than 10000 bytes"):
        read({"a": bytes(100_000)}, limits=FactLimits(unpacked=10_000))
