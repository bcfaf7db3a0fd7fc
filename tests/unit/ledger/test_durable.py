"""What reaches the disk and in which order: the system calls are recorded as they are made."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ledger import durable
from ledger.durable import POSIX, AppendFile


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    made: list[str] = []

    def spy(owner: Any, name: str, describe: Callable[..., str]) -> None:
        real = getattr(owner, name)

        def spied(*args: Any, **options: Any) -> Any:
            made.append(describe(*args))
            return real(*args, **options)

        monkeypatch.setattr(owner, name, spied)

    def name_of(fd: int) -> str:
        return Path(f"/proc/self/fd/{fd}").readlink().name

    spy(os, "fsync", lambda fd: f"fsync {name_of(fd)}")
    spy(os, "fdatasync", lambda fd: f"fdatasync {name_of(fd)}")
    spy(os, "pwrite", lambda fd, _data, _at: f"pwrite {name_of(fd)}")
    spy(os, "link", lambda _, target: f"link {Path(target).name}")
    spy(Path, "rename", lambda source, target: f"rename {source.name} {target.name}")
    return made


def test_a_file_gets_its_name_only_when_its_head_is_durable(tmp_path: Path, calls: list[str]) -> None:
    file = AppendFile.create(tmp_path / "a", b"head")
    assert calls == ["pwrite a.tmp", "fsync a.tmp", "rename a.tmp a", f"fsync {tmp_path.name}"]
    calls.clear()
    file.append(b"more")
    assert calls == ["pwrite a", "fdatasync a"]
    calls.clear()
    file.rename(tmp_path / "b")
    assert calls == ["rename a b", f"fsync {tmp_path.name}"]
    file.close()
    assert (tmp_path / "b").read_bytes() == b"headmore"


def test_a_file_that_exists_is_never_begun_again(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"kept")
    with pytest.raises(FileExistsError):
        AppendFile.create(tmp_path / "a", b"head")
    assert (tmp_path / "a").read_bytes() == b"kept"


def test_replacing_leaves_the_old_file_or_the_new(tmp_path: Path, calls: list[str]) -> None:
    durable.replace(tmp_path / "a", b"one")
    durable.replace(tmp_path / "a", b"two")
    assert calls == ["pwrite a.tmp", "fsync a.tmp", "rename a.tmp a", f"fsync {tmp_path.name}"] * 2
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"two")]


def test_what_is_created_once_keeps_its_first_content(tmp_path: Path, calls: list[str]) -> None:
    assert durable.create_once(tmp_path / "a", b"one", 0o600)
    assert calls[1:] == [calls[0].replace("pwrite", "fsync"), "link a", f"fsync {tmp_path.name}"]
    assert not durable.create_once(tmp_path / "a", b"two", 0o600)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"one")]


def test_names_can_be_made_durable_whoever_gave_them(tmp_path: Path, calls: list[str]) -> None:
    POSIX.sync_names(tmp_path)
    assert calls == [f"fsync {tmp_path.name}"]


def test_each_new_folder_is_made_durable_in_the_one_above(tmp_path: Path, calls: list[str]) -> None:
    durable.make_folder(tmp_path / "a" / "b")
    durable.make_folder(tmp_path / "a" / "b")
    assert calls == [f"fsync {tmp_path.name}", "fsync a"]


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = AppendFile.create(tmp_path / "a", b"")
    places: list[int] = []

    def write(fd: int, data: bytes, at: int) -> int:
        places.append(at)
        return real(fd, bytes(data[:3]), at)

    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", write)
    file.append(b"01234")
    file.append(b"56789")
    file.close()
    assert (tmp_path / "a").read_bytes() == b"0123456789"
    assert places == [0, 3, 5, 8]


def test_a_failed_fdatasync_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = AppendFile.create(tmp_path / "a", b"")
    attempts: list[int] = []

    def fail(fd: int) -> None:
        attempts.append(fd)
        raise OSError(5, "input/output error")

    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(OSError, match="input/output"):
        file.append(b"x")
    assert len(attempts) == 1
    file.close()
