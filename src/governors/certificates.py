"""The certificate that the service shows, read again when its files change: a new one needs no restart.

Each new connection gets the newest; those that are open keep the one that they began with. Kubernetes replaces a link
above the files, certbot the files themselves, one after the other: what does not go together changes nothing.
"""

import asyncio
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_private_key

LOOK_EVERY_S: Final = 1.0
FILE_BYTES_MAX: Final = 1024 * 1024
MICROS: Final = 1_000_000

OnReload = Callable[[str], None]
"""`on_reload(problem)`: the files changed. With a problem the certificate of before is still shown."""
_Identity = tuple[tuple[int, int, int], ...]


class CertificateError(Exception):
    """A file cannot be used. The message names the setting."""


class CertificateFiles(NamedTuple):
    """PEM files: the certificate and those that vouch for it, its key, and those that vouch for clients, if any do."""

    certificate: Path
    key: Path
    client_ca: Path | None


class Certificates:
    """What connections are made with. Made only from files that can be used: raises CertificateError."""

    def __init__(self, files: CertificateFiles, clock_us: Callable[[], int], on_reload: OnReload) -> None:
        self._files = files
        self._clock_us = clock_us
        self._on_reload = on_reload
        self._seen = _identity(files)
        # One that has expired still serves those who do not look, and there is no other.
        self.context, self.expires_us = _load(files, 0)

    @property
    def is_expired(self) -> bool:
        """Whether clients that look refuse it by now."""
        return self.expires_us <= self._clock_us()

    async def run(self) -> None:
        """Look for changes until cancelled. Files that are gone or bad change nothing, and are said once."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            await self.look()

    async def look(self) -> None:
        """Read the files again if one changed."""
        # Before they are read: what changes meanwhile is seen the next time.
        seen = await asyncio.to_thread(_identity, self._files)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            context, expires_us = await asyncio.to_thread(_load, self._files, self._clock_us())
        except CertificateError as error:
            self._on_reload(str(error))
        else:
            self.context, self.expires_us = context, expires_us
            self._on_reload("")


def _identity(files: CertificateFiles) -> _Identity:
    """What changes when a file is written or replaced."""
    return tuple(_identity_of(path) for path in files if path is not None)


def _identity_of(path: Path) -> tuple[int, int, int]:
    try:
        stat = path.stat()
    except OSError:
        return (0, 0, 0)
    return (stat.st_ino, stat.st_mtime_ns, stat.st_size)


def _load(files: CertificateFiles, now_us: int) -> tuple[ssl.SSLContext, int]:
    """A context, and when the first of its certificates expires, which is after `now_us`: in µs since the epoch."""
    chain = _certificates("tls.certificate", files.certificate)
    expires_us = min(int(one.not_valid_after_utc.timestamp()) for one in chain) * MICROS
    if expires_us <= now_us:
        raise CertificateError(f"tls.certificate: {files.certificate} has expired")
    key = _key(files.key)
    if chain[0].public_key() != key.public_key():
        raise CertificateError(f"tls.key: {files.key} is not the key of the first certificate in {files.certificate}")
    # By now that is what a browser takes (RFC 9325); nothing else is spoken behind it (RFC 7301).
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    try:
        # OpenSSL asks at the terminal for what it is not told.
        context.load_cert_chain(files.certificate, files.key, password="")
    except (OSError, ValueError) as error:
        raise CertificateError(f"tls.certificate: {files.certificate} cannot be used: {error}") from error
    if files.client_ca is not None:
        _certificates("tls.client_ca", files.client_ca)
        try:
            context.load_verify_locations(files.client_ca)
        except (OSError, ValueError) as error:
            raise CertificateError(f"tls.client_ca: {files.client_ca} cannot be used: {error}") from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context, expires_us


def _certificates(setting: str, path: Path) -> Sequence[x509.Certificate]:
    data = _read(setting, path)
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError as error:
        raise CertificateError(f"{setting}: {path} holds no certificate in PEM form") from error


def _key(path: Path) -> PrivateKeyTypes:
    data = _read("tls.key", path)
    try:
        return load_pem_private_key(data, None)
    except TypeError as error:
        raise CertificateError(f"tls.key: {path} is encrypted, and nobody is asked for a password") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        # Not a word of what is in it.
        raise CertificateError(f"tls.key: {path} holds no private key in PEM form") from error


def _read(setting: str, path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise CertificateError(f"{setting}: {path} cannot be read: {error.strerror}") from error
    if len(data) > FILE_BYTES_MAX:
        raise CertificateError(f"{setting}: {path} has more than {FILE_BYTES_MAX} bytes")
    return data
