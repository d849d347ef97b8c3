"""How a server or worker comes up: its keys, its socket, its rows, its first administrator, and then its processes."""

import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final, Protocol

from mlenv.server import journal, run, tls
from mlenv.server.app import create_app, preload
from mlenv.server.health import Check
from mlenv.service.repositories import UPLOAD_LIFETIME
from mlenv.wiring.embedded import utc_now
from mlenv.wiring.hosted import Hosted
from mlenv.wiring.machine import private_directory

if TYPE_CHECKING:
    from fastapi import FastAPI

    from mlenv.cli.printer import Printer
    from mlenv.server.settings import Settings

#: Seconds between two looks at whether a worker is to stop.
_WAKE: Final = 0.5


def start(settings: "Settings", printer: "Printer") -> None:
    """
    Serve until a signal comes.

    Raises:
        CannotListen, UnreadableCertificate, KeysUnusable, StoreUnusable and others of the store: It can't begin.
        InvalidCondarc, InvalidCredentialFile: The settings of conda can't be read.
    """
    journal.set_up(settings.log_format, settings.log_level)
    private_directory(settings.home)
    certificate = None if settings.plain else _certificate(settings)
    with run.listen(settings.host, settings.port) as listening:
        url = run.url_of(settings, listening)
        with Hosted(settings.home, settings.database_url, settings.policy) as hosted:
            _begin(hosted, printer)
        if certificate and certificate.authority:
            printer.say(f"clients must trust {certificate.authority}")
        printer.say(f"serving at {url}")
        count = settings.process_count if hasattr(os, "fork") else 1
        if count == 1:
            _serve(settings, listening, certificate, 0, -1)
            return
        shared = _share_figures()
        preload()
        try:
            parent = run.Parent(
                count,
                lambda number, pipe: _serve(settings, listening, certificate, number, pipe),
                listening,
                settings.shutdown_timeout,
            )
            parent.run()
        finally:
            if shared is not None:
                shutil.rmtree(shared, ignore_errors=True)


def _begin(hosted: Hosted, printer: "Printer") -> None:
    """Read settings, migrate the rows, see that bytes can be kept, make the first administrator and workspace."""
    from mlenv.service.tokens import Tokens

    hosted.machine.check_settings()
    _writable(hosted)
    secret = Tokens(hosted.site).bootstrap()
    if secret is not None:
        printer.say("the administrator's token, shown this once:")
        printer.text(f"{secret}\n")
        printer.stdout.flush()


def _certificate(settings: "Settings") -> tls.Certificate:
    if settings.tls_certificate is not None and settings.tls_key is not None:
        return tls.check(settings.tls_certificate, settings.tls_key)
    names = tls.names_for(settings.host, settings.public_url)
    return tls.ensure(private_directory(settings.home / "keys"), names, now=utc_now())


def ensure_authority(settings: "Settings") -> Path:
    """Where the certificate is that clients must trust. It is made if it is not there."""
    private_directory(settings.home)
    return tls.ensure_authority(private_directory(settings.home / "keys"), now=utc_now())


def recover(settings: "Settings") -> str:
    """A new token for the administrator: for whoever may read the server's files and database anyway."""
    from mlenv.service.tokens import Tokens

    with Hosted(settings.home, settings.database_url, settings.policy) as hosted:
        tokens = Tokens(hosted.site)
        return tokens.bootstrap() or tokens.recover()


def application(settings: "Settings", hosted: Hosted) -> "FastAPI":
    """The application over a store."""
    # Opened now, by one thread: requests come in many.
    _ = hosted.queue, hosted.logs, hosted.workers, hosted.machine.blobs, hosted.machine.conda_resolver
    return create_app(
        hosted.site,
        settings,
        checks=_checks(hosted),
        build_states=hosted.build_states,
        sweep_uploads=lambda: hosted.uploads.sweep(UPLOAD_LIFETIME),
        log=journal.answers(settings.log_format, settings.log_level) if settings.access_log else None,
        read_in_loop=hosted.database.in_loop,
        state={"hosted": hosted},
    )


def _checks(hosted: Hosted) -> Mapping[str, Check]:
    return {
        "database": lambda: hosted.site.store.principal("0" * 32),
        "blobs": lambda: _writable(hosted),
        "queue": lambda: hosted.queue.check(),
    }


def _writable(hosted: Hosted) -> None:
    """See that bytes can be written. Raises `OSError`, `StoreUnusable`."""
    directory = hosted.machine.blobs.sessions.directory()
    with tempfile.TemporaryFile(dir=directory) as file:
        file.write(b"x")


def _serve(
    settings: "Settings", listening: socket.socket, certificate: tls.Certificate | None, number: int, pipe: int
) -> None:
    """One process of a server. The first one has the workers."""
    with Hosted(settings.home, settings.database_url, settings.policy) as hosted:
        app = application(settings, hosted)
        workers = _workers(settings, hosted, settings.workers) if number == 0 and settings.workers else None

        def on_stop() -> None:
            hosted.machine.stop_registries()
            if workers is not None:
                workers.leave()

        close: Callable[[float], object] = workers.stop if workers is not None else lambda _: None
        run.serve(run.Serving(app, on_stop, close), settings, listening, certificate, pipe)


class _Workers(Protocol):
    """Those who build and run jobs in this process."""

    def leave(self) -> None:
        """Take nothing more, and hand over what runs. Returns at once."""

    def stop(self, grace: float) -> None:
        """Leave, and wait so many seconds at most."""


def _workers(settings: "Settings", hosted: Hosted, count: int) -> _Workers:
    return hosted.start_workers(
        count,
        per_scope=settings.workspace_workers,
        build=settings.build_timeout,
        step=settings.step_timeout,
        log=settings.max_log,
    )


def work(settings: "Settings", printer: "Printer") -> None:
    """Build and run jobs until a signal comes."""
    journal.set_up(settings.log_format, settings.log_level)
    stop = threading.Event()

    def end(_: int, __: FrameType | None) -> None:
        if stop.is_set():
            os._exit(130)
        stop.set()

    with Hosted(settings.home, settings.database_url, settings.policy) as hosted:
        hosted.machine.check_settings()
        _writable(hosted)
        workers = _workers(settings, hosted, settings.workers or 1)
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, end)
        printer.say(f"working: {settings.workers or 1} builds and jobs at once")
        while not stop.wait(_WAKE):
            continue
        workers.stop(settings.shutdown_timeout)


def _share_figures() -> Path | None:
    from mlenv.server import metrics

    directory = Path(tempfile.mkdtemp(prefix="mlenv-figures-"))
    metrics.share(directory)
    return directory
