import asyncio
import base64
import json
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.dead_letter import DeadLetterFolder, StoredLetter, UnreadableLine, read_letters
from ingest.errors import DeadLetterFullError

NOW_US = 1_795_341_600_000_000


async def put(folder: DeadLetterFolder, payload: bytes = b"{", error: str = "what is wrong") -> str:
    return await folder.put(
        reason="bad_json", tenant="acme", payload=payload, attributes={"k": "v"}, error=error, now_us=NOW_US
    )


def payloads(path: Path) -> list[bytes]:
    return [letter.payload for letter in read_letters(path) if isinstance(letter, StoredLetter)]


def files(path: Path) -> list[Path]:
    return sorted(path.iterdir())


async def test_a_letter_reads_back_as_it_was_put(tmp_path: Path) -> None:
    folder = DeadLetterFolder(tmp_path / "letters")
    letter_id = await folder.put(
        reason="bad_field",
        tenant=None,
        payload=bytes(range(256)),
        attributes={"schéma": "ü\n"},
        error="data.depth: expected an integer\nnot a string",
        now_us=NOW_US,
    )
    await folder.close()
    assert list(read_letters(tmp_path / "letters")) == [
        StoredLetter(
            letter_id=letter_id,
            reason="bad_field",
            tenant=None,
            payload=bytes(range(256)),
            attributes={"schéma": "ü\n"},
            error="data.depth: expected an integer\nnot a string",
            at_us=NOW_US,
        )
    ]


async def test_a_letter_is_one_line_of_json_that_grep_and_jq_can_read(tmp_path: Path) -> None:
    folder = DeadLetterFolder(tmp_path)
    letter_id = await put(folder, b"one")
    await put(folder, b"two")
    await folder.close()
    name, _, line = letter_id.partition(":")
    found = json.loads((tmp_path / name).read_text().splitlines()[int(line) - 1])
    assert base64.b64decode(found["payload"]) == b"one"
    assert (found["reason"], found["tenant"], found["at_us"]) == ("bad_json", "acme", NOW_US)


async def test_a_letter_is_on_disk_before_put_returns(tmp_path: Path) -> None:
    durable: list[int] = []
    reached = threading.Event()
    may_sync = threading.Event()

    def fsync(fd: int) -> None:
        reached.set()
        assert may_sync.wait(10)
        os.fsync(fd)
        durable.append(fd)

    folder = DeadLetterFolder(tmp_path, fsync=fsync)
    putting = asyncio.create_task(put(folder))
    await asyncio.to_thread(reached.wait, 10)
    assert not putting.done()
    may_sync.set()
    await putting
    # The folder's parent, the folder with the new name in it, the file.
    assert len(durable) == 3
    await folder.close()


async def test_letters_put_together_share_a_sync_and_keep_their_order(tmp_path: Path) -> None:
    syncs: list[int] = []
    folder = DeadLetterFolder(tmp_path, fsync=syncs.append)
    ids = await asyncio.gather(*(put(folder, str(number).encode()) for number in range(500)))
    await folder.close()
    assert payloads(tmp_path) == [str(number).encode() for number in range(500)]
    assert ids == [f"main-000001.jsonl:{number}" for number in range(1, 501)]
    assert len(syncs) < 50


async def test_a_full_file_is_followed_by_the_next_one(tmp_path: Path) -> None:
    folder = DeadLetterFolder(tmp_path, file_bytes_max=1_000)
    ids = [await put(folder, str(number).encode()) for number in range(40)]
    await folder.close()
    assert len(files(tmp_path)) > 3
    assert all(file.stat().st_size <= 1_000 for file in files(tmp_path))
    assert payloads(tmp_path) == [str(number).encode() for number in range(40)]
    assert [letter.letter_id for letter in read_letters(tmp_path)] == ids


async def test_a_full_folder_refuses_and_keeps_what_it_has(tmp_path: Path) -> None:
    folder = DeadLetterFolder(tmp_path, folder_bytes_max=1_000)
    outcomes = await asyncio.gather(
        *(put(folder, str(number).encode()) for number in range(40)), return_exceptions=True
    )
    kept = [outcome for outcome in outcomes if isinstance(outcome, str)]
    refused = [outcome for outcome in outcomes if isinstance(outcome, DeadLetterFullError)]
    await folder.close()
    assert kept
    assert len(kept) + len(refused) == 40
    assert len(payloads(tmp_path)) == len(kept)
    assert sum(file.stat().st_size for file in files(tmp_path)) <= 1_000


async def test_another_run_continues_where_the_last_one_stopped(tmp_path: Path) -> None:
    for number in range(3):
        folder = DeadLetterFolder(tmp_path)
        assert await put(folder, str(number).encode()) == f"main-000001.jsonl:{number + 1}"
        await folder.close()
    assert payloads(tmp_path) == [b"0", b"1", b"2"]


async def test_writers_whose_names_begin_alike_keep_apart(tmp_path: Path) -> None:
    first, second = DeadLetterFolder(tmp_path, writer="w"), DeadLetterFolder(tmp_path, writer="w-2")
    ids = [await put(second), await put(second), await put(first), await put(first)]
    await first.close()
    await second.close()
    assert ids == ["w-2-000001.jsonl:1", "w-2-000001.jsonl:2", "w-000001.jsonl:1", "w-000001.jsonl:2"]


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 400))
def test_a_crash_at_any_byte_loses_no_letter_that_was_durable(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    path = tmp_path_factory.mktemp("letters")

    async def crash_and_go_on() -> tuple[int, list[str]]:
        folder = DeadLetterFolder(path)
        for number in range(2):
            await put(folder, str(number).encode())
        await folder.close()
        (file,) = path.iterdir()
        whole = file.read_bytes()
        first = whole.index(b"\n") + 1
        # The first letter was durable; of the second, any part may have reached the disk.
        file.write_bytes(whole[: first + min(cut, len(whole) - first)])
        again = DeadLetterFolder(path)
        letter_id = await put(again, b"after")
        await again.close()
        return min(cut, len(whole) - first), [letter_id]

    kept_bytes, ids = asyncio.run(crash_and_go_on())
    found = list(read_letters(path))
    letters = [letter for letter in found if isinstance(letter, StoredLetter)]
    assert letters[0].payload == b"0"
    assert letters[-1].payload == b"after"
    assert [letters[-1].letter_id] == ids
    torn = [line for line in found if isinstance(line, UnreadableLine)]
    assert len(torn) <= 1
    assert len(found) == (2 if kept_bytes == 0 else 3)


async def test_a_file_whose_sync_failed_takes_no_more_letters(tmp_path: Path) -> None:
    fail = False

    def fsync(fd: int) -> None:
        if fail:
            raise OSError(5, "Input/output error")
        os.fsync(fd)

    folder = DeadLetterFolder(tmp_path, fsync=fsync)
    assert await put(folder, b"before") == "main-000001.jsonl:1"
    fail = True
    with pytest.raises(OSError, match="Input/output"):
        await put(folder, b"in doubt")
    fail = False
    assert await put(folder, b"after") == "main-000002.jsonl:1"
    await folder.close()
    assert payloads(tmp_path)[0] == b"before"
    assert payloads(tmp_path)[-1] == b"after"


async def test_a_caller_that_is_cancelled_holds_up_nobody(tmp_path: Path) -> None:
    may_sync = threading.Event()

    def fsync(fd: int) -> None:
        assert may_sync.wait(10)
        os.fsync(fd)

    folder = DeadLetterFolder(tmp_path, fsync=fsync)
    first = asyncio.create_task(put(folder, b"cancelled"))
    second = asyncio.create_task(put(folder, b"kept"))
    await asyncio.sleep(0)
    first.cancel()
    may_sync.set()
    with pytest.raises(asyncio.CancelledError):
        await first
    await second
    await folder.close()
    assert payloads(tmp_path)[-1] == b"kept"


async def test_damaged_lines_are_reported_and_hide_no_others(tmp_path: Path) -> None:
    folder = DeadLetterFolder(tmp_path)
    for payload in (b"0", b"1", b"2"):
        await put(folder, payload)
    await folder.close()
    (file,) = files(tmp_path)
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([lines[0], b'{"payload": \xff\xfe}\n', lines[1].replace(b'"MQ=="', b'"M?=="'), lines[2]]))
    found = list(read_letters(tmp_path))
    assert [type(line) for line in found] == [StoredLetter, UnreadableLine, UnreadableLine, StoredLetter]
    assert payloads(tmp_path) == [b"0", b"2"]


def test_a_folder_that_is_not_there_holds_no_letters(tmp_path: Path) -> None:
    assert list(read_letters(tmp_path / "nowhere")) == []


@pytest.mark.parametrize("writer", ["", "../up", "a/b", "ü", "a" * 65])
def test_a_writer_cannot_be_named_out_of_the_folder(tmp_path: Path, writer: str) -> None:
    with pytest.raises(ValueError, match="file's name"):
        DeadLetterFolder(tmp_path, writer=writer)


async def test_an_error_of_any_length_is_kept_short(tmp_path: Path) -> None:
    folder = DeadLetterFolder(tmp_path)
    await put(folder, error="e" * 1_000_000)
    await folder.close()
    (file,) = files(tmp_path)
    assert file.stat().st_size < 10_000
