"""The file with the signing key: made once, private, and never replaced by another."""

import re
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest

from ledger.errors import IdentityError
from ledger.format.note import Signer
from ledger.signing import SIGNING_KEY_FILE, open_signing_key

NAME = "example.org/log"


def never(number: int) -> bytes:
    raise AssertionError("asked for another key")


def entropy(number: int) -> bytes:
    return bytes(range(number))


def key_file(data_dir: Path) -> Path:
    return data_dir / "ledger" / SIGNING_KEY_FILE


def test_the_key_is_made_once_and_readable_by_its_owner_only(tmp_path: Path) -> None:
    assert open_signing_key(tmp_path, NAME, entropy) == bytes(range(32))
    assert key_file(tmp_path).stat().st_mode & 0o777 == 0o600
    assert open_signing_key(tmp_path, NAME, never) == bytes(range(32))


def test_the_file_is_written_as_go_writes_signing_keys(tmp_path: Path) -> None:
    open_signing_key(tmp_path, NAME, entropy)
    text = key_file(tmp_path).read_text()
    assert text.startswith("PRIVATE+KEY+example.org/log+")
    assert text.endswith("\n")
    assert Signer.parse(text.strip()).seed == bytes(range(32))


def test_of_several_that_start_at_once_all_have_the_same_key(tmp_path: Path) -> None:
    numbers = count(1)

    def other_entropy(size: int) -> bytes:
        return next(numbers).to_bytes(size, "big")

    with ThreadPoolExecutor(8) as pool:
        seeds = list(pool.map(lambda _: open_signing_key(tmp_path, NAME, other_entropy), range(32)))
    assert set(seeds) == {open_signing_key(tmp_path, NAME, never)}
    assert [path.name for path in key_file(tmp_path).parent.iterdir()] == [SIGNING_KEY_FILE]


def test_a_configured_key_is_used_and_never_made(tmp_path: Path) -> None:
    elsewhere = tmp_path / "secret"
    with pytest.raises(IdentityError, match=r"secret cannot be read: No such file"):
        open_signing_key(tmp_path, NAME, never, elsewhere)
    elsewhere.write_text(Signer(NAME, bytes(32)).skey)  # a secret store may drop the newline
    assert open_signing_key(tmp_path, NAME, never, elsewhere) == bytes(32)
    assert not key_file(tmp_path).exists()


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\n", b"\xff" * 40, bytes(32), b"PRIVATE+KEY+example.org/log+00000000+" + b"A" * 44,
        Signer(NAME, bytes(32)).verifier.vkey.encode(), Signer(NAME, bytes(32)).skey.encode()[:-1],
        Signer(NAME, bytes(32)).skey.encode() + b"\n\n", Signer("example.org/other", bytes(32)).skey.encode(),
        b"x" * 1_000_000,
    ],
)  # fmt: skip
def test_a_file_that_is_not_this_logs_key_is_named_and_left_alone(tmp_path: Path, content: bytes) -> None:
    open_signing_key(tmp_path, NAME, entropy)
    key_file(tmp_path).write_bytes(content)
    with pytest.raises(IdentityError, match=re.escape(str(key_file(tmp_path)))) as caught:
        open_signing_key(tmp_path, NAME, never)
    assert "AAAAAAAA" not in str(caught.value)
    assert key_file(tmp_path).read_bytes() == content
