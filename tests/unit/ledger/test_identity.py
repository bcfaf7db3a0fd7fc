import asyncio
import hashlib
import hmac
import sys
from pathlib import Path

import pytest
from support.ledger_scenes import draft, open_ledger, running, seeded_entropy, write_log

from ledger.appender import Ledger
from ledger.errors import IdentityError, LedgerClosedError, LedgerError, LedgerFailedError, LedgerLockedError
from ledger.format import chain
from ledger.identity import PartitionLock, open_identity, partition_folder


def test_an_identity_is_made_once_and_kept(tmp_path: Path) -> None:
    first = open_identity(tmp_path, seeded_entropy(1))
    again = open_identity(tmp_path, seeded_entropy(2))
    assert first == again
    assert first.name.startswith("governors.local/")
    assert len(first.name) == len("governors.local/") + 16
    assert first.origin(3) == f"{first.name}/3"
    assert len(first.key) == 32
    assert first.key.hex() not in repr(first)


def test_two_folders_have_different_identities(tmp_path: Path) -> None:
    one = open_identity(tmp_path / "one", seeded_entropy(1))
    two = open_identity(tmp_path / "two", seeded_entropy(2))
    assert one.name != two.name
    assert one.key != two.key


def test_a_chosen_name_must_fit_ever_after(tmp_path: Path) -> None:
    assert open_identity(tmp_path, seeded_entropy(), "example.com/log").name == "example.com/log"
    assert open_identity(tmp_path, seeded_entropy()).name == "example.com/log"
    with pytest.raises(IdentityError, match=r"belongs to the log 'example\.com/log'"):
        open_identity(tmp_path, seeded_entropy(), "example.com/other")


def test_the_number_of_partitions_is_chosen_once(tmp_path: Path) -> None:
    assert open_identity(tmp_path / "one", seeded_entropy()).partitions == 1
    assert open_identity(tmp_path / "eight", seeded_entropy(), partitions=8).partitions == 8
    assert open_identity(tmp_path / "eight", seeded_entropy()).partitions == 8
    with pytest.raises(IdentityError, match="has 8 partitions, not 3"):
        open_identity(tmp_path / "eight", seeded_entropy(), partitions=3)
    with pytest.raises(IdentityError, match="has 1 partitions, not 3"):
        open_identity(tmp_path / "one", seeded_entropy(), partitions=3)


@pytest.mark.parametrize("damaged", ["", "many", "0", "-1", "1001"])
def test_a_damaged_number_of_partitions_stops_the_start(tmp_path: Path, damaged: str) -> None:
    open_identity(tmp_path, seeded_entropy(), partitions=8)
    (tmp_path / "ledger" / "partitions").write_text(f"{damaged}\n")
    with pytest.raises(IdentityError, match="restore it"):
        open_identity(tmp_path, seeded_entropy())


@pytest.mark.parametrize("name", ["", "with space", "a+b", "x" * 201, "line\nbreak"])
def test_a_name_that_no_signed_note_could_carry_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(IdentityError):
        open_identity(tmp_path, seeded_entropy(), name)


def test_a_lost_or_damaged_key_stops_the_start_and_is_not_made_anew(tmp_path: Path) -> None:
    open_identity(tmp_path, seeded_entropy())
    key = tmp_path / "ledger" / "pseudonym.key"
    key.write_bytes(b"short")
    with pytest.raises(IdentityError, match="restore it"):
        open_identity(tmp_path, seeded_entropy())
    key.unlink()
    with pytest.raises(IdentityError, match="restore it"):
        open_identity(tmp_path, seeded_entropy())
    assert not key.exists()


def test_a_damaged_origin_stops_the_start(tmp_path: Path) -> None:
    open_identity(tmp_path, seeded_entropy())
    (tmp_path / "ledger" / "origin").write_text("two words\n")
    with pytest.raises(IdentityError, match="restore it"):
        open_identity(tmp_path, seeded_entropy())


async def test_several_that_open_a_new_folder_at_once_agree(tmp_path: Path) -> None:
    found = await asyncio.gather(
        *(asyncio.to_thread(open_identity, tmp_path, seeded_entropy(seed)) for seed in range(8))
    )
    assert len({(each.name, each.key) for each in found}) == 1
    assert sorted(path.name for path in (tmp_path / "ledger").iterdir()) == ["origin", "pseudonym.key"]


async def test_nobody_else_opens_a_partition_that_is_open(tmp_path: Path) -> None:
    folder = partition_folder(tmp_path, 0)
    async with running(tmp_path):
        with pytest.raises(LedgerLockedError, match=str(folder)):
            PartitionLock.acquire(folder)
        program = f"""
import os, pathlib
from ledger.appender import Ledger
Ledger.open(pathlib.Path({str(tmp_path)!r}), entropy=os.urandom, writer="other", encode_state=bytes)
"""
        other = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stderr=asyncio.subprocess.PIPE)
        _, said = await other.communicate()
        assert b"LedgerLockedError" in said
        assert str(folder).encode() in said
    PartitionLock.acquire(folder).release()


async def test_a_start_that_fails_lets_go_of_the_lock(tmp_path: Path) -> None:
    await write_log(tmp_path, [1])
    (tmp_path / "ledger" / "origin").write_text("somebody.else\n")  # recovery refuses, after the lock was taken
    with pytest.raises(LedgerError):
        Ledger.open(tmp_path, entropy=seeded_entropy(), writer="w", encode_state=bytes)
    PartitionLock.acquire(partition_folder(tmp_path, 0)).release()


def test_pseudonyms_are_stable_short_and_tell_nothing_without_the_key() -> None:
    key, other = seeded_entropy(1)(32), seeded_entropy(2)(32)
    assert chain.pseudonym(key, "acme") == chain.pseudonym(key, "acme")
    assert len({chain.pseudonym(each, tenant) for each in (key, other) for tenant in ("acme", "umbra")}) == 4
    assert len(chain.pseudonym(key, "acme")) == 32


def test_a_commitment_is_hmac_sha256() -> None:
    for length in (0, 1, 31, 55, 56, 64, 1_000):
        entropy = seeded_entropy(length)
        key, payload = entropy(32), entropy(length)
        assert chain.commitment(key, payload) == hmac.new(key, payload, "sha256").hexdigest()


def test_commitments_of_many_are_those_of_each() -> None:
    entropy = seeded_entropy()
    payloads = [entropy(length) for length in (0, 1, 31, 55, 56, 64, 1_000)]
    keys = chain.split(entropy(32 * len(payloads)), 32)
    assert keys == tuple(dict.fromkeys(keys))
    each = zip(keys, payloads, strict=True)
    assert chain.commitments(keys, payloads) == [hmac.new(*one, "sha256").hexdigest() for one in each]
    assert chain.commitments((), ()) == []


def test_genesis_depends_on_log_and_tenant_and_has_a_domain_of_its_own() -> None:
    assert chain.genesis("l/0", "t") == hashlib.sha256(b"govledger/genesis/v1\0l/0\0t").digest()
    assert len({chain.genesis(log, tenant) for log in ("a", "b") for tenant in ("c", "d")}) == 4


async def test_a_ledger_that_never_ran_can_be_let_go(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    waiting = asyncio.create_task(ledger.wait_local(ledger.append(draft(0))))
    await asyncio.sleep(0)
    ledger.close()
    ledger.close()
    with pytest.raises(LedgerFailedError):
        await waiting
    with pytest.raises(LedgerClosedError):
        ledger.append(draft(1))
    with pytest.raises(LedgerClosedError):
        await ledger.run()
    await write_log(tmp_path, [1])
