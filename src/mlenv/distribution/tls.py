"""Whose certificates are trusted, by host."""

import ssl
from pathlib import Path

from mlenv.certificates import trusting_context
from mlenv.distribution.settings import RegistrySettings
from mlenv.errors import InvalidInput


class UnreadableCertificate(InvalidInput):
    """A file of authorities, or a client's certificate, that can't be used."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"the certificate {path} can't be used: {why}")
        self.path = path


def trusting(host: str, settings: RegistrySettings, *, insecure: bool = False) -> ssl.SSLContext:
    """
    A context for connections to a host: the machine's authorities (`SSL_CERT_FILE`, `SSL_CERT_DIR`), that of the
    settings, and what docker keeps for the host: `certs.d/HOST/*.crt`, `*.cert` with `*.key` (certs.d(5)).

    Args:
        insecure: Take any certificate.

    Raises:
        UnreadableCertificate: A file that is there, or named, can't be used.
    """
    context = trusting_context()
    if settings.authority is not None:
        _load(context, settings.authority)
    for directory in settings.certificates:
        _load_directory(context, directory / host)
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _load_directory(context: ssl.SSLContext, directory: Path) -> None:
    # A host may come from a redirect: no name of one leads out of the directory.
    if directory.name.startswith(".") or not directory.is_dir():
        return
    for path in sorted(directory.glob("*.crt")):
        _load(context, path)
    for path in sorted(directory.glob("*.cert")):
        try:
            context.load_cert_chain(path, path.with_suffix(".key"), password="")
        except (OSError, ValueError) as error:
            raise UnreadableCertificate(path, str(error)) from error


def _load(context: ssl.SSLContext, path: Path) -> None:
    try:
        context.load_verify_locations(path)
    except (OSError, ValueError) as error:
        raise UnreadableCertificate(path, getattr(error, "strerror", None) or str(error)) from error
