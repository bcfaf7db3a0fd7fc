"""Which store a URL means, and that a client nobody configured is not imported."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.sim_gcs import SimGcs

from ledger.errors import StoreRefusedError
from ledger.store.object_store import CREATE, Won
from ledger.store.opening import open_store


async def test_a_file_url_names_a_folder(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/with%20space")
    assert isinstance(await store.put("0/a", b"x", if_generation=CREATE), Won)
    await store.close()
    assert [path.name for path in (tmp_path / "with space/0").iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("url", "name"), [("gs://bucket", "0/a"), ("gs://bucket/", "0/a"), ("gs://bucket/logs/eu", "logs/eu/0/a")]
)
async def test_a_gs_url_names_a_bucket_and_a_prefix(url: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with SimGcs("bucket") as sim:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", sim.url)
        store = open_store(url)
        assert isinstance(await store.put("0/a", b"x", if_generation=CREATE), Won)
        assert await store.list("") == ["0/a"]
        await store.close()
        assert sim.objects("bucket") == {name: b"x"}


@pytest.mark.parametrize(
    "url", ["", "/data/store", "file:relative", "file://host/path", "s3://bucket", "gs://", "gs:///prefix"]
)
def test_a_url_of_no_store_is_refused(url: str) -> None:
    with pytest.raises(StoreRefusedError, match="is no store"):
        open_store(url)


def test_a_prefix_that_is_no_key_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    with pytest.raises(StoreRefusedError, match="not a key"):
        open_store("gs://bucket/a//b")


def test_missing_credentials_are_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "missing.json"))
    with pytest.raises(StoreRefusedError, match=r"gs://bucket cannot be opened.*missing\.json"):
        open_store("gs://bucket")


def test_a_folder_needs_no_cloud_client(tmp_path: Path) -> None:
    script = (
        "import sys; from ledger.store.opening import open_store; "
        f"open_store('file://{tmp_path}'); "
        "print([name for name in sys.modules if name.startswith('google')])"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]", run.stdout
