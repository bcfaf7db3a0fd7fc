"""The certificate's files: what cannot be used is said by its setting, and changes nothing."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.certificates import Authority, replace

from governors.certificates import CertificateError, CertificateFiles, Certificates

AUTHORITY = Authority()
ISSUED = AUTHORITY.issue()
OTHER = AUTHORITY.issue()
DAY_US = 86_400 * 1_000_000


def now_us() -> int:
    return int(datetime.now(UTC).timestamp() * 1_000_000)


class Reloads:
    """What was said of each change, and the certificates that it is about."""

    def __init__(self, folder: Path, client_ca: Path | None = None) -> None:
        self.problems: list[str] = []
        self.files = CertificateFiles(folder / "tls.crt", folder / "tls.key", client_ca)
        self.certificates = Certificates(self.files, now_us, self.problems.append)


def test_a_certificate_and_its_key_are_used(tmp_path: Path) -> None:
    ISSUED.put(tmp_path)
    certificates = Reloads(tmp_path).certificates
    assert certificates.context.verify_mode is ssl.CERT_NONE
    assert certificates.context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert abs(certificates.expires_us - now_us() - 90 * DAY_US) < DAY_US
    assert not certificates.is_expired


def test_the_first_to_expire_counts_of_those_that_vouch(tmp_path: Path) -> None:
    soon = AUTHORITY.issue(lasts=timedelta(days=10))
    ISSUED.put(tmp_path)
    replace(tmp_path / "tls.crt", ISSUED.certificate + soon.certificate)
    assert abs(Reloads(tmp_path).certificates.expires_us - now_us() - 10 * DAY_US) < DAY_US


def test_an_expired_certificate_does_not_stop_the_start(tmp_path: Path) -> None:
    AUTHORITY.issue(lasts=timedelta(days=-1)).put(tmp_path)
    assert Reloads(tmp_path).certificates.is_expired


def test_clients_are_asked_for_a_certificate_where_somebody_vouches_for_them(tmp_path: Path) -> None:
    ISSUED.put(tmp_path)
    replace(tmp_path / "ca.crt", AUTHORITY.certificate)
    context = Reloads(tmp_path, tmp_path / "ca.crt").certificates.context
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert len(context.get_ca_certs()) == 1


BAD_FILES: dict[str, tuple[str, bytes | None, str]] = {
    "no certificate": ("tls.crt", None, "tls.certificate: .* cannot be read: No such file"),
    "an empty certificate": ("tls.crt", b"", "tls.certificate: .* holds no certificate"),
    "a key for a certificate": ("tls.crt", ISSUED.key, "tls.certificate: .* holds no certificate"),
    "half a certificate": ("tls.crt", ISSUED.certificate[:300], "tls.certificate: .* holds no certificate"),
    "another's certificate": ("tls.crt", OTHER.certificate, "tls.key: .* is not the key of"),
    "a huge certificate": ("tls.crt", b" " * 2_000_000, "tls.certificate: .* more than 1048576 bytes"),
    "no key": ("tls.key", None, "tls.key: .* cannot be read: No such file"),
    "no key in it": ("tls.key", b"key", "tls.key: .* holds no private key"),
    "a certificate for a key": ("tls.key", ISSUED.certificate, "tls.key: .* holds no private key"),
    "another's key": ("tls.key", OTHER.key, "tls.key: .* is not the key of"),
    "an encrypted key": ("tls.key", ISSUED.encrypted_key, "tls.key: .* is encrypted"),
    "no authority": ("ca.crt", None, "tls.client_ca: .* cannot be read: No such file"),
    "an empty authority": ("ca.crt", b"\n", "tls.client_ca: .* holds no certificate"),
}


@pytest.mark.parametrize("wrong", BAD_FILES)
async def test_a_bad_file_stops_the_start_and_is_not_taken_later(tmp_path: Path, wrong: str) -> None:
    name, data, message = BAD_FILES[wrong]
    ISSUED.put(tmp_path)
    replace(tmp_path / "ca.crt", AUTHORITY.certificate)
    reloads = Reloads(tmp_path, tmp_path / "ca.crt")
    before = reloads.certificates.context

    if data is None:
        (tmp_path / name).unlink()
    else:
        replace(tmp_path / name, data)
    with pytest.raises(CertificateError, match=message) as caught:
        Reloads(tmp_path, tmp_path / "ca.crt")
    assert "PRIVATE KEY" not in str(caught.value)

    await reloads.certificates.look()
    await reloads.certificates.look()
    assert reloads.problems == [str(caught.value)], "said once"
    assert reloads.certificates.context is before


async def test_a_new_certificate_is_used_from_the_next_look_on(tmp_path: Path) -> None:
    ISSUED.put(tmp_path)
    reloads = Reloads(tmp_path)
    before = reloads.certificates.context
    await reloads.certificates.look()
    assert reloads.certificates.context is before

    AUTHORITY.issue(lasts=timedelta(days=30)).put(tmp_path)
    await reloads.certificates.look()
    assert reloads.problems == [""]
    assert reloads.certificates.context is not before
    assert abs(reloads.certificates.expires_us - now_us() - 30 * DAY_US) < DAY_US


async def test_files_that_are_replaced_one_after_the_other_are_taken_once_they_go_together(tmp_path: Path) -> None:
    ISSUED.put(tmp_path)
    reloads = Reloads(tmp_path)
    replace(tmp_path / "tls.crt", OTHER.certificate)
    await reloads.certificates.look()
    replace(tmp_path / "tls.key", OTHER.key)
    await reloads.certificates.look()
    assert len(reloads.problems) == 2
    assert "is not the key of" in reloads.problems[0]
    assert reloads.problems[1] == ""


async def test_a_link_that_kubernetes_moves_to_another_folder_is_a_change(tmp_path: Path) -> None:
    for number, issued in enumerate((ISSUED, OTHER)):
        (tmp_path / f"..{number}").mkdir()
        issued.put(tmp_path / f"..{number}")
    (tmp_path / "..data").symlink_to("..0")
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).symlink_to(Path("..data") / name)
    reloads = Reloads(tmp_path)
    before = reloads.certificates.context

    (tmp_path / "..next").symlink_to("..1")
    (tmp_path / "..next").replace(tmp_path / "..data")
    await reloads.certificates.look()

    assert reloads.problems == [""]
    assert reloads.certificates.context is not before


async def test_a_new_certificate_that_has_expired_is_not_taken(tmp_path: Path) -> None:
    ISSUED.put(tmp_path)
    reloads = Reloads(tmp_path)
    before = reloads.certificates.context
    AUTHORITY.issue(lasts=timedelta(days=-1)).put(tmp_path)
    await reloads.certificates.look()
    assert reloads.problems == [f"tls.certificate: {tmp_path / 'tls.crt'} has expired"]
    assert reloads.certificates.context is before
