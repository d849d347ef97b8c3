"""
Runs an image builder where nothing of this machine is: a program of its own, between us and the builder.

    python -I -S context_jail.py        (what is to be done comes as JSON on stdin)

The builder, and all that it starts, gets its own user, mount, process, IPC and host name namespaces
(`user_namespaces(7)`), and its own network namespace where it is to have no network. Its file system holds the programs
and libraries of this machine, read-only, devices that everybody may use, and one directory, `/build`, for itself. What
is not there can't be read, whatever a step of the build does, and as whichever user.

Begun by root, its users are ones that own nothing on this machine. Begun by anybody else, it must run inside a user
namespace already (`buildah unshare`, `podman unshare`), whose root is that user and nobody more.

When this program dies, all that it started dies with it, by the process namespace.

NOTE: only the standard library, and little of it: it runs by itself, in front of every build.
"""

import ctypes
import json
import os
import signal
import struct
import subprocess
import sys
from typing import Any

_CLONE_NEWNS, _CLONE_NEWUTS, _CLONE_NEWIPC = 0x20000, 0x4000000, 0x8000000
_CLONE_NEWUSER, _CLONE_NEWPID, _CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT = 1, 2, 4, 8, 32
_MS_BIND, _MS_REC, _MS_PRIVATE = 4096, 16384, 1 << 18
_MNT_DETACH = 2
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
#: `SYS_pivot_root`, which libc has no function for.
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_LIBRARY = ctypes.CDLL(None, use_errno=True)


def main() -> int:
    """Do what stdin says. Returns the exit code of the first command that failed, or 0."""
    order = json.loads(sys.stdin.buffer.read())
    _die_with_parent()
    kinds = _CLONE_NEWPID | _CLONE_NEWIPC | _CLONE_NEWUTS
    if order["network"] == "none":
        kinds |= _CLONE_NEWNET
    _check(_LIBRARY.unshare(kinds), "make namespaces")
    # Each says a byte when it is ready: the child for its user namespace to be mapped, we that it is.
    asked, answered = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(asked[0])
        os.close(answered[1])
        _inside(order, asked[1], answered[0])
    os.close(asked[1])
    os.close(answered[0])
    if order["users"] is not None and os.read(asked[0], 1):
        first, count = order["users"]
        for name in ("uid_map", "gid_map"):
            with open(f"/proc/{child}/{name}", "w") as file:
                file.write(f"0 {first} {count}\n")
        os.write(answered[1], b".")
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _inside(order: dict[str, Any], ask: int, answer: int) -> None:
    """Process 1 of the new namespaces: builds the file system, gives up what it may, runs the commands. Never returns."""
    code = 125
    try:
        _die_with_parent()
        # NOTE: ours alone, so that the process that waits for us keeps the root directory it has.
        _check(_LIBRARY.unshare(_CLONE_NEWNS), "make a mount namespace")
        _loopback_up()
        _LIBRARY.sethostname(b"build", 5)
        _file_system(order)
        if order["users"] is not None:
            _check(_LIBRARY.unshare(_CLONE_NEWUSER | _CLONE_NEWNS), "make a user namespace")
            os.write(ask, b".")
            if not os.read(answer, 1):
                raise OSError("its users could not be mapped")
            os.setgroups([])
            os.setgid(0)
            os.setuid(0)
            _die_with_parent()
        os.close(ask)
        os.close(answer)
        code = _commands(order)
    except OSError as error:
        os.write(2, f"can't isolate a build here: {error}\n".encode(errors="replace"))
    finally:
        os._exit(code)


def _commands(order: dict[str, Any]) -> int:
    """One after the other, until one fails."""
    for command in order["commands"]:
        try:
            done = subprocess.Popen(
                command, env=order["environment"], cwd="/build", stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT
            )
        except OSError as error:
            os.write(2, f"{command[0]} can't be run: {error.strerror}\n".encode(errors="replace"))
            return 127
        code = _wait(done.pid)
        if code != 0:
            return code if code > 0 else 128 - code
    return 0


def _wait(child: int) -> int:
    """How a child ended. Orphans come to us, as to every process 1, and are collected."""
    while True:
        ended, status = os.wait()
        if ended == child:
            return os.waitstatus_to_exitcode(status)


def _file_system(order: dict[str, Any]) -> None:
    """Put together a root directory, and make it the only one there is."""
    root = order["root"]
    _mount(None, "/", None, _MS_REC | _MS_PRIVATE)
    _mount("tmpfs", root, "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=755,size=64m")
    for path in order["system"]:
        if os.path.islink(path):
            os.symlink(os.readlink(path), root + path)
        elif os.path.exists(path):
            _bind(path, root + path, _MS_RDONLY | _MS_NOSUID | _MS_NODEV)
    for path, text in order["files"].items():
        os.makedirs(os.path.dirname(root + path), exist_ok=True)
        with open(root + path, "w") as file:
            file.write(text)
    os.mkdir(f"{root}/build")
    # NOTE: without `nosuid` and `nodev`, which builders want to take off for secrets, and could not. Who runs a program
    # of root's there becomes root of these namespaces, and nobody there can make a device.
    _bind(order["build"], f"{root}/build", 0)
    for path in order["readonly"]:
        _bind(f"{order['build']}/{path}", f"{root}/build/{path}", _MS_RDONLY | _MS_NOSUID | _MS_NODEV)
    for name in ("tmp", "var/tmp", "run"):
        os.makedirs(f"{root}/{name}", exist_ok=True)
    _bind(f"{order['build']}/tmp", f"{root}/tmp", 0)
    _bind(f"{order['build']}/tmp", f"{root}/var/tmp", 0)
    _bind(f"{order['build']}/run", f"{root}/run", 0)
    _devices(root)
    os.mkdir(f"{root}/sys")
    os.mkdir(f"{root}/proc")
    # NOTE: before the old root is gone: a user namespace mounts only what it has seen whole.
    _mount("proc", f"{root}/proc", "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    os.chdir(root)
    number = _PIVOT_ROOT[os.uname().machine]
    _check(_LIBRARY.syscall(number, b".", b"."), "change the root directory")
    _check(_LIBRARY.umount2(b".", _MNT_DETACH), "leave the old root directory")
    os.chdir("/")
    _mount(None, "/", None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | _MS_NODEV)


def _devices(root: str) -> None:
    os.mkdir(f"{root}/dev")
    _mount("tmpfs", f"{root}/dev", "tmpfs", _MS_NOSUID | _MS_NOEXEC, "mode=755,size=64k")
    for name in _DEVICES:
        with open(f"{root}/dev/{name}", "w"):
            pass
        _mount(f"/dev/{name}", f"{root}/dev/{name}", None, _MS_BIND)
    for name in ("pts", "shm"):
        os.mkdir(f"{root}/dev/{name}")
    _mount("devpts", f"{root}/dev/pts", "devpts", _MS_NOSUID | _MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620")
    _mount("tmpfs", f"{root}/dev/shm", "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=1777,size=64m")
    os.symlink("pts/ptmx", f"{root}/dev/ptmx")
    os.symlink("/proc/self/fd", f"{root}/dev/fd")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        os.symlink(f"/proc/self/fd/{number}", f"{root}/dev/{name}")


def _bind(source: str, target: str, flags: int) -> None:
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    elif not os.path.exists(target):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "w"):
            pass
    # NOTE: not recursive: what is mounted below a system's directory stays out.
    _mount(source, target, None, _MS_BIND)
    _mount(None, target, None, _MS_REMOUNT | _MS_BIND | flags)


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    arguments = [None if each is None else each.encode() for each in (source, target, kind)]
    found = _LIBRARY.mount(*arguments, ctypes.c_ulong(flags), None if data is None else data.encode())
    _check(found, f"mount {source or kind or 'anew'} at {target}")


def _loopback_up() -> None:
    """Bring up `lo` (netdevice(7)). Where the network is the machine's, it is up, and we may not."""
    import fcntl
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sH14x", b"lo", 0x1)
        try:
            fcntl.ioctl(any_socket, 0x8914, request)
        except PermissionError:
            pass


def _die_with_parent() -> None:
    _LIBRARY.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _check(code: int, what: str) -> None:
    if code != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"could not {what}: {os.strerror(number)}")


if __name__ == "__main__":
    sys.exit(main())
