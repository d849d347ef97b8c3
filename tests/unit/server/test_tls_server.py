"""A server's own authority and certificates."""

import datetime
import ssl
import stat
from pathlib import Path

import pytest
from cryptography import x509

from mlenv.server import tls

NOW = datetime.datetime(2026, 11, 22, 12, tzinfo=datetime.UTC)
NAMES = ["localhost", "127.0.0.1", "::1", "mlenv.example.org"]


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.mkdir(mode=0o700)
    return path


def _read(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_the_certificate_is_for_all_names_and_signed_by_the_authority(keys: Path) -> None:
    made = tls.ensure(keys, NAMES, now=NOW)
    assert made.authority == keys / "ca.pem"
    authority, certificate = _read(made.authority), _read(made.certificate)
    certificate.verify_directly_issued_by(authority)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "mlenv.example.org"]
    assert [str(each) for each in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]


def test_keys_are_for_their_owner_alone(keys: Path) -> None:
    made = tls.ensure(keys, NAMES, now=NOW)
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys.glob("*.key")} == {0o600}
    assert made.key in set(keys.glob("*.key"))


def test_what_is_good_stays_as_it_is(keys: Path) -> None:
    first = tls.ensure(keys, NAMES, now=NOW)
    before = first.certificate.read_bytes(), (keys / "ca.pem").read_bytes()
    tls.ensure(keys, NAMES[:2], now=NOW + datetime.timedelta(days=300))
    assert (first.certificate.read_bytes(), (keys / "ca.pem").read_bytes()) == before


@pytest.mark.parametrize("change", ["near its end", "another name", "damaged", "of another authority", "key lost"])
def test_what_is_not_good_any_more_is_made_anew_by_the_same_authority(keys: Path, change: str) -> None:
    made = tls.ensure(keys, NAMES, now=NOW)
    before, authority = made.certificate.read_bytes(), (keys / "ca.pem").read_bytes()
    now, names = NOW, list(NAMES)
    if change == "near its end":
        now += datetime.timedelta(days=380)
    elif change == "another name":
        names.append("10.0.0.7")
    elif change == "damaged":
        made.certificate.write_text("-----BEGIN")
    elif change == "key lost":
        made.key.unlink()
    else:
        other = keys / "other"
        other.mkdir()
        foreign = tls.ensure(other, NAMES, now=NOW)
        made.certificate.write_bytes(foreign.certificate.read_bytes())
        made.key.write_bytes(foreign.key.read_bytes())
    again = tls.ensure(keys, names, now=now)
    assert again.certificate.read_bytes() != before
    assert (keys / "ca.pem").read_bytes() == authority
    _read(again.certificate).verify_directly_issued_by(_read(keys / "ca.pem"))
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(again.certificate, again.key)


def test_an_authority_without_its_key_is_refused_and_not_replaced(keys: Path) -> None:
    tls.ensure_authority(keys, now=NOW)
    (keys / "ca.key").unlink()
    with pytest.raises(tls.KeysUnusable, match=r"ca\.key"):
        tls.ensure(keys, NAMES, now=NOW)


def test_a_directory_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(tls.KeysUnusable, match="nowhere"):
        tls.ensure_authority(tmp_path / "nowhere", now=NOW)


def test_names_are_loopback_the_host_and_the_public_address() -> None:
    names = tls.names_for("0.0.0.0", "https://mlenv.example.org:8443")
    assert {"localhost", "127.0.0.1", "::1", "mlenv.example.org"} <= set(names)
    assert "0.0.0.0" not in names


@pytest.mark.parametrize("mistake", ["no file", "not a certificate", "another key"])
def test_a_certificate_of_ones_own_is_checked(keys: Path, tmp_path: Path, mistake: str) -> None:
    made = tls.ensure(keys, NAMES, now=NOW)
    assert tls.check(made.certificate, made.key).authority is None
    certificate, key = made.certificate, made.key
    if mistake == "no file":
        certificate = tmp_path / "none.pem"
    elif mistake == "not a certificate":
        certificate = tmp_path / "text.pem"
        certificate.write_text("hello")
    else:
        key = keys / "ca.key"
    with pytest.raises(tls.UnreadableCertificate):
        tls.check(certificate, key)
