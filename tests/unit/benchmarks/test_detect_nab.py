import json
from pathlib import Path

import pytest

from benchmarks import detect_nab

ROWS = 1_000


def write_series(folder: Path, name: str, faulty: range) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["timestamp,value"]
    for row in range(ROWS):
        value = (100 + row * 7_919 % 11) * (4 if row in faulty else 1)
        lines.append(f"2014-04-{1 + row // 288:02} {row % 288 // 12:02}:{row % 12 * 5:02}:00,{value}")
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def corpus(tmp_path: Path) -> list[str]:
    write_series(tmp_path, "a/fault.csv", range(620, 640))
    write_series(tmp_path, "b/calm.csv", range(0))
    window = ["2014-04-03 03:30:00.000000", "2014-04-03 06:00:00.000000"]
    (tmp_path / "labels.json").write_text(json.dumps({"a/fault.csv": [window], "b/calm.csv": []}))
    return ["--data", str(tmp_path), "--labels", str(tmp_path / "labels.json")]


def report(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    made: dict[str, object] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return made


def test_every_detector_is_scored_and_its_detections_are_named(
    corpus: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detect_nab, "POINT_US_MAX", 1e9)
    assert detect_nab.main([*corpus, "--json"]) == 0
    made = report(capsys)
    ours = made["detectors"][0]  # type: ignore[index]
    assert [one["detector"] for one in made["detectors"]] == ["cost_guard", "windowed_gaussian", "adv_like"]  # type: ignore[attr-defined]
    assert ours["detections"]["a/fault.csv"][0] == 620
    assert ours["detections"]["b/calm.csv"] == []
    assert ours["windows_found"] == 1
    assert ours["tuned"]["standard"] >= ours["shipped"]["standard"] > 60


def test_a_missed_target_fails_the_run(corpus: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detect_nab, "SCORE_MIN", 100.1)
    assert detect_nab.main(corpus) == 1


def test_no_data_is_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert detect_nab.main(["--data", str(tmp_path), "--labels", str(tmp_path / "none.json")]) == 2
    assert "no series" in capsys.readouterr().err
