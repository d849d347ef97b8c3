"""
A small certificate authority of a server's own (RFC 5280), for machines where nobody has a better one.

Its key signs nothing but the certificates of the servers that share a home. Both lie in `home/keys`, readable by their
owner only; `ca.pem` is what clients trust.
"""

import datetime
import ipaddress
import os
import socket
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from msgspec import Struct

from mlenv.errors import InvalidInput, Unavailable
from mlenv.file_lock import FileLock

_CA_LIFE: Final = datetime.timedelta(days=3650)
#: The longest that clients accept (Apple's and the CA/Browser Forum's limit was 398 days).
_SERVER_LIFE: Final = datetime.timedelta(days=397)
#: A certificate that ends sooner is made anew when a server starts.
_RENEW: Final = datetime.timedelta(days=30)
#: Clients' clocks may be behind ours.
_EARLIER: Final = datetime.timedelta(days=1)


class UnreadableCertificate(InvalidInput):
    """A certificate or key that is missing, damaged, or does not fit the other."""

    hint = "give a PEM certificate with its chain, and its key without a passphrase"

    def __init__(self, certificate: Path, key: Path, why: str) -> None:
        super().__init__(f"the certificate {certificate} and key {key} can't be used: {why}")
        self.certificate, self.key = certificate, key


class KeysUnusable(Unavailable):
    """The directory of keys can't be read or written."""

    def __init__(self, where: Path, why: str) -> None:
        super().__init__(f"the server's keys can't be used: {where}: {why}")
        self.where = where


class Certificate(Struct, frozen=True):
    """
    What a server shows to clients.

    Attributes:
        certificate, key: PEM files.
        authority: What clients must trust, or None where it is not ours to say.
    """

    certificate: Path
    key: Path
    authority: Path | None


def check(certificate: Path, key: Path) -> Certificate:
    """Somebody's own certificate. Raises `UnreadableCertificate`."""
    for path in (certificate, key):
        if not path.is_file():
            raise UnreadableCertificate(certificate, key, f"there is no file {path}")
    try:
        # A passphrase would be asked for on the terminal; there may be none.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=_no_passphrase)
    except (ssl.SSLError, OSError, ValueError) as error:
        why = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        raise UnreadableCertificate(certificate, key, str(why)) from error
    return Certificate(certificate, key, None)


def _no_passphrase() -> str:
    raise ValueError("the key has a passphrase")


def prefer_clients_choice(context: ssl.SSLContext) -> None:
    """
    Let clients choose among the ciphers that both sides think good: each knows what its processor is quick at.

    Those of registries begin with AES-128-GCM, of which both ends have a third less work than of AES-256-GCM, which
    OpenSSL would take. NOTE: Python can't order the ciphers of TLS 1.3 itself before 3.15.
    """
    context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE


def authority_file(keys: Path) -> Path:
    """Where the certificate that clients trust is, or will be."""
    return keys / "ca.pem"


def ensure_authority(keys: Path, *, now: datetime.datetime) -> Path:
    """Make the authority if it is not there. Returns its certificate's path. Raises `KeysUnusable`."""
    try:
        with FileLock(keys / ".lock"):
            _authority(keys, now)
    except OSError as error:
        raise KeysUnusable(keys, error.strerror or str(error)) from error
    return authority_file(keys)


def ensure(keys: Path, names: Sequence[str], *, now: datetime.datetime) -> Certificate:
    """
    A certificate for this machine, made or renewed if need be.

    Args:
        keys: The directory of keys, which several machines may share.
        names: Host names and addresses that clients may use.

    Raises:
        KeysUnusable: The directory can't be read or written, or holds something else.
    """
    # Each machine that shares the directory has its own names, and so its own certificate.
    stem = f"server-{_host_name()}"
    certificate, key = keys / f"{stem}.pem", keys / f"{stem}.key"
    try:
        with FileLock(keys / ".lock"):
            authority, signer = _authority(keys, now)
            if not _is_good(certificate, key, names, authority, now):
                _issue(certificate, key, names, authority, signer, now)
    except OSError as error:
        raise KeysUnusable(keys, error.strerror or str(error)) from error
    return Certificate(certificate, key, authority_file(keys))


def names_for(host: str, public_url: str | None) -> list[str]:
    """What clients may call this machine: always loopback, its own name, the address it listens on, the public one."""
    from urllib.parse import urlsplit

    public = urlsplit(public_url).hostname if public_url else None
    found = ["localhost", "127.0.0.1", "::1", _host_name(), socket.getfqdn(), host, public]
    wanted = [each for each in found if each and each not in {"0.0.0.0", "::"} and _general_name(each) is not None]
    return list(dict.fromkeys(wanted))


def _host_name() -> str:
    return socket.gethostname() or "localhost"


def _general_name(name: str) -> x509.GeneralName | None:
    """A name as certificates have it; None for one that they can't have."""
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name.encode("idna").decode().lower())
    except (UnicodeError, ValueError):
        return None


def _authority(keys: Path, now: datetime.datetime) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    certificate_file, key_file = authority_file(keys), keys / "ca.key"
    if certificate_file.exists() or key_file.exists():
        return _read_pair(certificate_file, key_file)
    signer = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"mlenv CA of {_host_name()}"[:64])])
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    certificate = (
        _builder(name, name, signer.public_key(), now, _CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(signer, hashes.SHA256())
    )
    _write_pair(certificate_file, key_file, certificate, signer)
    return certificate, signer


def _issue(
    certificate_file: Path,
    key_file: Path,
    names: Sequence[str],
    authority: x509.Certificate,
    signer: ec.EllipticCurvePrivateKey,
    now: datetime.datetime,
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _host_name()[:64])])
    alternatives = [found for each in names if (found := _general_name(each)) is not None]
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    certificate = (
        _builder(subject, authority.subject, key.public_key(), now, _SERVER_LIFE)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(identifier, critical=False)
        .sign(signer, hashes.SHA256())
    )
    _write_pair(certificate_file, key_file, certificate, key)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    now: datetime.datetime,
    life: datetime.timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _is_good(
    certificate_file: Path, key_file: Path, names: Sequence[str], authority: x509.Certificate, now: datetime.datetime
) -> bool:
    """Whether a certificate is there, ours, for all these names, and good for some time to come."""
    if not certificate_file.exists() or not key_file.exists():
        return False
    try:
        found, _ = _read_pair(certificate_file, key_file)
        found.verify_directly_issued_by(authority)
        alternatives = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (KeysUnusable, InvalidSignature, x509.ExtensionNotFound, ValueError, TypeError):
        return False
    wanted = {_general_name(each) for each in names}
    in_time = found.not_valid_before_utc <= now and now + _RENEW < found.not_valid_after_utc
    return in_time and wanted <= set(alternatives)


def _read_pair(certificate_file: Path, key_file: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    for path in (certificate_file, key_file):
        if not path.exists():
            raise KeysUnusable(path, "it is missing, but what belongs to it is there")
    try:
        certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
        key = serialization.load_pem_private_key(key_file.read_bytes(), None)
    except (ValueError, TypeError) as error:
        raise KeysUnusable(key_file.parent, "the certificate or its key is damaged") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or certificate.public_key() != key.public_key():
        raise KeysUnusable(key_file, "it is not the key of that certificate")
    return certificate, key


def _write_pair(
    certificate_file: Path, key_file: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
) -> None:
    encoding, private = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    _write(key_file, key.private_bytes(encoding, private, serialization.NoEncryption()), 0o600)
    _write(certificate_file, certificate.public_bytes(encoding), 0o644)


def _write(path: Path, data: bytes, mode: int) -> None:
    """Write a file so that it is never there in part, nor for others to read."""
    temporary = path.with_name(f"{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.chmod(mode)
    os.replace(temporary, path)
