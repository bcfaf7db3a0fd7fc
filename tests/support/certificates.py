"""Certificates as an authority of the tests' own makes them."""

import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Issued:
    """A certificate and its key, in PEM form."""

    certificate: bytes
    key: bytes
    encrypted_key: bytes

    def put(self, folder: Path) -> tuple[Path, Path]:
        """Write both as an editor or certbot does: other files under the same names."""
        paths = folder / "tls.crt", folder / "tls.key"
        for path, data in zip(paths, (self.certificate, self.key), strict=True):
            replace(path, data)
        return paths


@dataclass
class Authority:
    """Vouches for 127.0.0.1 and for clients."""

    name: str = "an authority"
    _key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    @property
    def certificate(self) -> bytes:
        subject = _name(self.name)
        builder = _builder(subject, subject, self._key, datetime.now(UTC) + timedelta(days=365))
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)

    def issue(self, name: str = "127.0.0.1", *, lasts: timedelta = timedelta(days=90)) -> Issued:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_name(name), _name(self.name), key, datetime.now(UTC) + lasts)
        address = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))])
        signed = builder.add_extension(address, critical=False).sign(self._key, hashes.SHA256())

        def pem(encryption: NoEncryption | BestAvailableEncryption) -> bytes:
            return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)

        return Issued(signed.public_bytes(Encoding.PEM), pem(NoEncryption()), pem(BestAvailableEncryption(b"secret")))

    def trust(self) -> ssl.SSLContext:
        """The context of a client that believes this authority alone."""
        return ssl.create_default_context(cadata=self.certificate.decode())


def replace(path: Path, data: bytes) -> None:
    """Another file under the same name."""
    beside = path.with_suffix(".new")
    beside.write_bytes(data)
    beside.replace(path)


def serial_of(pem_or_der: bytes) -> int:
    """A certificate's number, to tell one from another."""
    is_pem = pem_or_der.startswith(b"-----")
    load = x509.load_pem_x509_certificate if is_pem else x509.load_der_x509_certificate
    return load(pem_or_der).serial_number


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, until: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(until, datetime.now(UTC)) - timedelta(days=1))
        .not_valid_after(until)
    )
