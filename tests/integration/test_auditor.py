"""An auditor with a key, a trust file and the documents of a real service: what the command line says of each fraud."""

import json
import shutil
from base64 import b64encode
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.auditing import leaves_of
from support.ledger_scenes import segments
from support.service import ServiceProcess
from typer.testing import CliRunner

from governors.cli.main import command_line
from ledger.format.batch_proof import batch_ranges
from ledger.format.merkle import leaf_hash, root_of

GOOD, BAD, NOT_CHECKED = 0, 1, 2


def signals(first: int, count: int, tenant: str = "acme") -> list[dict[str, Any]]:
    return [
        {
            "id": f"{tenant}-{number}", "source": "test", "tenant": tenant, "kind": "queue.sample",
            "observed_at": "2026-11-22T10:00:00Z",
            "data": {"depth": number, "oldest_age_s": 0, "in_rate_per_s": 1, "done_rate_per_s": 1},
        }
        for number in range(first, first + count)
    ]  # fmt: skip


class Auditor:
    """What it knows is in its own folder. The documents come from whoever serves them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def verify(self, *arguments: str, code: int = GOOD) -> str:
        trust = str(self.folder / "trust")
        result = CliRunner().invoke(command_line(), ["verify", *arguments, "--trust", trust])
        assert result.exit_code == code, result.output
        return result.output

    def fetch(self, url: str, name: str, accept: str = "application/json") -> str:
        response = httpx.get(url, headers={"accept": accept}, timeout=30)
        assert response.status_code == 200, response.text
        path = self.folder / name
        path.write_bytes(response.content)
        return str(path)

    def proof(self, service: ServiceProcess, index: int, name: str = "proof") -> str:
        return self.fetch(f"{service.url}/v1/receipts/0:{index}/proof", name, "text/plain")


def send(service: ServiceProcess, batch: list[dict[str, Any]]) -> list[str]:
    answer = httpx.post(f"{service.url}/v1/signals?wait=committed", json=batch, timeout=30)
    assert answer.status_code == 200, answer.text
    return [one["receipt"] for one in answer.json()["results"]]


def vkey_of(data_dir: Path) -> str:
    result = CliRunner().invoke(command_line(), ["ledger", "info", "--data-dir", str(data_dir), "--json"])
    vkey: str = json.loads(result.output)["partitions"][0]["vkey"]
    return vkey


class Scene:
    """A log that ran twice, a copy from between, and what an auditor has fetched while it ran."""

    def __init__(self, folder: Path) -> None:
        self.data_dir, self.earlier = folder / "data", folder / "earlier"
        self.auditor = Auditor(folder / "auditor")
        with ServiceProcess(self.data_dir) as service:
            send(service, signals(0, 30) + signals(0, 5, "bazaar"))
            self.vkey = vkey_of(self.data_dir)
            self.first = self.auditor.proof(service, 3, "first")
            assert service.stop() == 0
        shutil.copytree(self.data_dir, self.earlier)
        with ServiceProcess(self.data_dir) as service:
            send(service, signals(30, 30))
            self.second = self.auditor.proof(service, 40, "second")
            url = f"{service.url}/v1/logs/0/consistency?from={self.signed_size(self.first)}"
            self.consistency = self.auditor.fetch(url, "consistency")
            self.bundle = self.auditor.fetch(f"{service.url}/v1/tenants/acme/bundle", "bundle")
            self.verdict = httpx.post(f"{service.url}/v1/verify", content=Path(self.bundle).read_bytes()).json()
            assert service.stop() == 0

    @staticmethod
    def signed_size(path: str) -> int:
        return int(Path(path).read_text().partition("\n\n")[2].split("\n")[1])


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return Scene(tmp_path_factory.mktemp("scene"))


@pytest.fixture
def scene(played: Scene, tmp_path: Path) -> Scene:
    """The scene, with an auditor who knows nothing yet and a data folder to spoil."""
    fresh = Scene.__new__(Scene)
    fresh.__dict__ |= played.__dict__
    fresh.auditor = Auditor(tmp_path / "auditor")
    fresh.data_dir = shutil.copytree(played.data_dir, tmp_path / "data")
    fresh.earlier = shutil.copytree(played.earlier, tmp_path / "earlier")
    return fresh


def test_an_honest_log_is_good_in_every_form(scene: Scene) -> None:
    auditor = scene.auditor
    assert "no key is known" in auditor.verify("proof", scene.first, code=NOT_CHECKED)
    assert "receipt 3: tenant" in auditor.verify("proof", scene.first, "--vkey", scene.vkey)
    assert "continues that of" in auditor.verify("consistency", scene.consistency)
    assert "receipt 40: tenant" in auditor.verify("proof", scene.second)
    assert "60 receipts of tenant" in auditor.verify("tenant", scene.bundle)
    assert "good: " in auditor.verify("log", str(scene.data_dir))
    assert (scene.verdict["ok"], scene.verdict["found"]["receipts"]) == (True, 60)


def test_a_proof_takes_less_than_two_kilobytes_beside_its_leaf(scene: Scene) -> None:
    text = Path(scene.second).read_text()
    leaf = next(line for line in text.split("\n") if line.startswith("extra "))
    assert len(text) - len(leaf) < 2_000


def test_tampered_one_byte_is_named(scene: Scene) -> None:
    path = next(path for path in segments(scene.data_dir) if b'"decision":"none"' in path.read_bytes())
    data = bytearray(path.read_bytes())
    at = data.index(b'"decision":"none"') + 13
    data[at] ^= 1
    path.write_bytes(data)
    said = scene.auditor.verify("log", str(scene.data_dir), "--vkey", scene.vkey, code=BAD)
    assert f"{path} at byte {at}" in said
    assert "a receipt was changed: it is 0x" in said
    assert "BAD: 1 errors" in said


def test_tampered_document_is_refused(scene: Scene) -> None:
    document = json.loads(Path(scene.bundle).read_text())
    document["receipts"][2]["leaf"] = document["receipts"][3]["leaf"]
    path = scene.auditor.folder / "tampered"
    path.write_text(json.dumps(document))
    assert "BAD: " in scene.auditor.verify("tenant", str(path), "--vkey", scene.vkey, code=BAD)


def test_truncated_receipts_that_were_signed_are_missed(scene: Scene) -> None:
    segments(scene.data_dir)[-1].unlink()
    said = scene.auditor.verify("log", str(scene.data_dir), "--vkey", scene.vkey, code=BAD)
    assert "truncated: " in said
    assert "were in the log and are not here" in said


def test_reordered_segments_are_seen(scene: Scene) -> None:
    first, second = segments(scene.data_dir)[-2:]
    swapped = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(swapped)
    assert "a segment is missing before it" in scene.auditor.verify("log", str(scene.data_dir), code=BAD)


def test_reordered_receipts_are_seen(scene: Scene) -> None:
    document = json.loads(Path(scene.bundle).read_text())
    document["receipts"][2:4] = document["receipts"][3:1:-1]
    path = scene.auditor.folder / "reordered"
    path.write_text(json.dumps(document))
    assert "BAD: reordered: " in scene.auditor.verify("tenant", str(path), "--vkey", scene.vkey, code=BAD)


def test_rolled_back_log_convicts_itself_by_the_next_proof(scene: Scene) -> None:
    """Somebody puts back last week's copy, and goes on as if nothing had been."""
    scene.auditor.verify("proof", scene.second, "--vkey", scene.vkey)
    with ServiceProcess(scene.earlier) as service:
        send(service, signals(100, 2))
        again = scene.auditor.proof(service, 3)
        said = scene.auditor.verify("proof", again, code=BAD)
        assert service.stop() == 0
    assert "BAD: rollback: " in said
    assert f"a checkpoint of {scene.signed_size(scene.second)} was seen before, signed by the same key" in said
    assert "rollback: partition 0" in scene.auditor.verify("log", str(scene.earlier), code=BAD)


def test_forked_log_is_caught_when_it_grows_past_what_was_seen(scene: Scene) -> None:
    """As before, but it has grown longer than the true one: no rollback to be seen, and yet another history."""
    scene.auditor.verify("proof", scene.second, "--vkey", scene.vkey)
    seen = scene.signed_size(scene.second)
    with ServiceProcess(scene.earlier) as service:
        newest = send(service, signals(100, 60))[-1]
        # A proof stands under what is committed to the store already, unless that is not enough for its receipt: only
        # the newest receipt's is sure to go past what was seen.
        later = scene.auditor.proof(service, int(newest.partition(":")[2]))
        assert f"consistency proof from {seen} to" in scene.auditor.verify("proof", later)
        shown = scene.auditor.fetch(f"{service.url}/v1/logs/0/consistency?from={seen}", "shown")
        assert "BAD: fork: " in scene.auditor.verify("consistency", shown, code=BAD)
        # The fork's own service is asked about a proof of the true log: its key signed it, its log is another.
        verdict = httpx.post(f"{service.url}/v1/verify", content=Path(scene.second).read_bytes()).json()
        assert (verdict["ok"], verdict["error"].partition(":")[0]) == (False, "fork")
        assert service.stop() == 0
    assert "fork: partition 0" in scene.auditor.verify("log", str(scene.earlier), code=BAD)


def test_withheld_receipts_are_missed_though_every_proof_is_valid(scene: Scene) -> None:
    """Whoever holds the log can leave receipts out and prove the rest: the tenant's chain has a gap then."""
    document = json.loads(Path(scene.bundle).read_text())
    del document["receipts"][5]
    size = int(document["checkpoint"].split("\n")[1])
    hashes = [leaf_hash(leaf) for leaf in leaves_of(scene.data_dir)[:size]]
    ranges = batch_ranges([one["index"] for one in document["receipts"]], size)
    document["proof"] = [b64encode(root_of(hashes[start:end])).decode() for start, end in ranges]
    path = scene.auditor.folder / "withheld"
    path.write_text(json.dumps(document))
    said = scene.auditor.verify("tenant", str(path), "--vkey", scene.vkey, code=BAD)
    assert "BAD: withheld: receipt " in said
    assert "is the tenant's number 6, where 5 must come: 1 are missing" in said
