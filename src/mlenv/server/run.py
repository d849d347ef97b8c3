"""
Running an application: one process, or several that share a socket under a parent that looks after them.

SIGTERM or SIGINT stops gently: no new connections, requests and builds end or are handed over, within a limit. A second
signal ends everything at once.
"""

import errno
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Final, NoReturn

import uvicorn
from fastapi import FastAPI
from msgspec import Struct

from mlenv.errors import Unavailable
from mlenv.server.joining import JoiningHttp
from mlenv.server.middleware import App, Receive, Scope, Send
from mlenv.server.settings import Settings
from mlenv.server.tls import Certificate, prefer_clients_choice

_log = logging.getLogger(__name__)

#: How many connections may wait to be accepted.
_BACKLOG: Final = 2048
#: Seconds beyond the limit of a gentle stop after which a process ends itself.
_GRACE: Final = 5.0
#: A process that dies sooner than this after its start, in seconds, and so many times in a row, is not started again.
_TOO_SOON: Final = 5.0
_ATTEMPTS: Final = 5
#: The status of a process that was ended by a second signal.
_AT_ONCE: Final = 130
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class CannotListen(Unavailable):
    """The address or port can't be listened on."""

    def __init__(self, host: str, port: int, why: str) -> None:
        super().__init__(f"can't listen on {host} port {port}: {why}")
        self.hint = "stop what listens there, or choose another with --port"
        self.host, self.port = host, port


class ServerFailed(Unavailable):
    """The processes of the server died again and again."""

    hint = "the log above says why"


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises `CannotListen`."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        made = socket.socket(family, kind, protocol)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(address)
            made.listen(_BACKLOG)
        except BaseException:
            made.close()
            raise
    except OSError as error:
        why = "another program listens there" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
        raise CannotListen(host, port, why) from error
    except UnicodeError as error:
        raise CannotListen(host, port, "that is no name of a host") from error
    made.set_inheritable(True)
    return made


def url_of(settings: Settings, listening: socket.socket) -> str:
    """Where clients reach the server."""
    if settings.public_url:
        return settings.public_url
    host = settings.host
    if host in {"0.0.0.0", "::", ""}:
        host = socket.getfqdn()
    host = f"[{host}]" if ":" in host else host
    return f"{'http' if settings.plain else 'https'}://{host}:{listening.getsockname()[1]}"


class Serving(Struct):
    """
    What one process serves.

    Attributes:
        app: The application.
        on_stop: Called from the signal's handler when a stop begins; must not wait.
        close: Called when requests have ended, with the seconds that are left.
    """

    app: FastAPI
    on_stop: Callable[[], object] = lambda: None
    close: Callable[[float], object] = lambda _: None


class _Server(uvicorn.Server):
    """A server that stops gently at the first signal, and at once at the second."""

    def __init__(self, config: uvicorn.Config, serving: Serving, limit: float, *, alone: bool) -> None:
        super().__init__(config)
        self._serving, self._limit, self._alone = serving, limit, alone
        self.deadline = float("inf")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # NOTE: nothing is added to `_captured_signals`, or uvicorn would raise it again at the end.
        if self.should_exit and self._alone:
            os._exit(_AT_ONCE)
        # Terminals and service managers send a signal to all processes of a group: only the parent counts them.
        self.stop()

    def stop(self) -> None:
        """Begin to stop."""
        if self.should_exit:
            return
        self.should_exit = True
        self.deadline = time.monotonic() + self._limit
        self._serving.app.state.readiness.stopping = True
        self._serving.on_stop()
        # Whatever hangs, the process ends.
        watch = threading.Timer(self._limit + _GRACE, os._exit, (1,))
        watch.daemon = True
        watch.start()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        # A backlog of one makes asyncio accept one connection at a time, so that processes get equal shares; the
        # system's own queue is to be long all the same.
        for each in sockets or ():
            each.listen(_BACKLOG)


def serve(
    serving: Serving, settings: Settings, listening: socket.socket, certificate: Certificate | None, parent: int = -1
) -> None:
    """
    Serve until a signal comes.

    Args:
        parent: The end of a pipe to read from: when the other end closes, the parent has died or wants this process
            to stop. -1 for a process that has no parent.
    """
    config = uvicorn.Config(
        _entrance(serving.app),
        http=JoiningHttp,
        # Not uvloop, which is taken where it happens to be installed: it can't send files.
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=settings.trusted_proxies is not None,
        forwarded_allow_ips=settings.trusted_proxies,
        backlog=1,
        ssl_certfile=str(certificate.certificate) if certificate else None,
        ssl_keyfile=str(certificate.key) if certificate else None,
        timeout_keep_alive=int(settings.keep_alive) or 1,
        timeout_graceful_shutdown=max(1, int(settings.shutdown_timeout)),
    )
    config.load()
    if config.ssl is not None:
        prefer_clients_choice(config.ssl)
    server = _Server(config, serving, settings.shutdown_timeout, alone=parent < 0)
    if parent >= 0:
        threading.Thread(target=_stop_with_parent, args=(parent, server), daemon=True).start()
    try:
        server.run(sockets=[listening])
    finally:
        serving.close(max(0.0, min(settings.shutdown_timeout, server.deadline - time.monotonic())))


def _entrance(app: FastAPI) -> App:
    """The application's middlewares, without what the framework looks for before them: telemetry that nobody sets up."""
    within = app.middleware_stack
    assert within is not None

    async def enter(scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = app
        await within(scope, receive, send)

    return enter


def _stop_with_parent(pipe: int, server: _Server) -> None:
    """Wait until the parent dies, or says so, and stop then."""
    while True:
        try:
            if not os.read(pipe, 1):
                break
        except InterruptedError:
            continue
        except OSError:
            break
    server.stop()


class Parent:
    """
    Starts several processes, starts those again that die, and stops them all.

    Args:
        count: How many.
        child: What each does: it is given its number and a pipe, whose other end closes when it is to stop.
        listening: The socket that they share. It is closed when a stop begins, so that nobody connects in vain.
        limit: How long they have to stop, in seconds.
    """

    def __init__(self, count: int, child: Callable[[int, int], None], listening: socket.socket, limit: float) -> None:
        self._count, self._child, self._listening, self._limit = count, child, listening, limit
        self._children: dict[int, tuple[int, float]] = {}
        self._failures = 0
        self._deadline: float | None = None
        self._pipe = os.pipe()

    def run(self) -> None:
        """Look after the processes until a signal comes. Raises `ServerFailed`."""
        previous = {each: signal.signal(each, self._stop) for each in _SIGNALS}
        try:
            for number in range(self._count):
                self._start(number)
            while self._children:
                self._reap()
                if self._deadline is not None and time.monotonic() > self._deadline:
                    self._kill()
                    self._deadline = float("inf")
        finally:
            self._kill()
            for each, handler in previous.items():
                signal.signal(each, handler)
        if self._failures >= _ATTEMPTS:
            raise ServerFailed(f"the server's processes died {self._failures} times in a row")

    def _start(self, number: int) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        # A signal that came between the two would be handled by the child as if it were the parent.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        process = os.fork()
        if process == 0:
            self._be_child(number)
        self._children[process] = number, time.monotonic()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    def _be_child(self, number: int) -> NoReturn:
        status = 1
        try:
            os.close(self._pipe[1])
            for each in _SIGNALS:
                signal.signal(each, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            self._child(number, self._pipe[0])
            status = 0
        except BaseException:  # noqa: BLE001 - the process ends here, whatever it was
            _log.exception("a process of the server failed")
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def _reap(self) -> None:
        """Wait for a child to die, or a tenth of a second."""
        try:
            process, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            self._children.clear()
            return
        if process == 0:
            time.sleep(0.1)
            return
        if process not in self._children:
            return
        number, started = self._children.pop(process)
        if self._deadline is not None:
            return
        _log.error("process %d ended (status %d); another takes its place", process, status)
        self._failures = self._failures + 1 if time.monotonic() - started < _TOO_SOON else 0
        if self._failures >= _ATTEMPTS:
            self._begin_stop()
        else:
            time.sleep(min(0.1 * 2**self._failures, 2.0) if self._failures else 0)
            self._start(number)

    def _stop(self, _: int, __: FrameType | None) -> None:
        if self._deadline is not None:
            self._kill()
            os._exit(_AT_ONCE)
        self._begin_stop()

    def _begin_stop(self) -> None:
        self._deadline = time.monotonic() + self._limit + _GRACE + 1
        self._listening.close()
        os.close(self._pipe[1])

    def _kill(self) -> None:
        for process in list(self._children):
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
