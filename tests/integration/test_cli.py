"""The command line as its users have it, against a service as they start it."""

import json
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer.main
from support.service import ServiceProcess
from typer.testing import CliRunner

from governors.cli.main import command_line

GONE_S = 60.0
_numbers = count(1)
COMMANDS = {
    ("serve",): "serve",
    ("demo",): "demo",
    ("send",): "send",
    ("tail",): "tail",
    ("tenants",): "tenants",
    ("receipts",): "receipts",
    ("verify", "log"): "log",
    ("config", "check"): "check",
    ("pubsub", "setup"): "setup",
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    with ServiceProcess(tmp_path_factory.mktemp("cli") / "data") as running:
        yield running


class Result:
    """What a command said and how it ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err

    @property
    def document(self) -> Any:
        return json.loads(self.out)


def run(*args: str, stdin: str | None = None, env: dict[str, str] | None = None) -> Result:
    done = CliRunner().invoke(command_line(), list(args), input=stdin, env={"COLUMNS": "200", **(env or {})})
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return Result(done.exit_code, done.stdout, done.stderr)


def wire(tenant: str = "acme", cost: str = "910.25", **changes: Any) -> dict[str, Any]:
    data = {
        "cost_amount": cost,
        "budget_amount": "1000.00",
        "currency": "USD",
        "interval_start": "2026-01-01T00:00:00Z",
        "interval_end": "2126-01-01T00:00:00Z",
    }
    number = next(_numbers)
    return {
        "id": f"s-{number}",
        "source": "billing",
        "tenant": tenant,
        "kind": "cost.snapshot",
        "subject": "prod",
        "observed_at": f"2026-03-01T00:{number // 60:02d}:{number % 60:02d}Z",
        "data": data,
    } | changes


# Help


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, one in command.commands.items():
        if hasattr(one, "commands"):
            yield from leaves(one, (*path, name))
        else:
            yield (*path, name), one


def test_every_command_has_an_example_in_its_help_that_can_be_given_as_it_stands() -> None:
    found = dict(leaves(typer.main.get_command(command_line())))
    assert found.keys() >= COMMANDS.keys()
    for path, command in found.items():
        help_text = run(*path, "--help")
        assert help_text.code == 0
        _, marker, example = (command.help or "").partition("Example: ")
        assert marker, f"{path} shows no example"
        assert "Example: " in help_text.out
        words = shlex.split(example)
        assert words[: len(path) + 1] == ["governors", *path]
        assert command.make_context(path[-1], words[len(path) + 1 :]), "the example is one that the command takes"


def test_every_command_that_answers_can_answer_in_json() -> None:
    for path, command in leaves(typer.main.get_command(command_line())):
        options = {option for parameter in command.params for option in parameter.opts}
        assert "--json" in options or path == ("serve",), f"{path} has no --json"


def test_it_runs_as_a_module_and_tells_its_version() -> None:
    done = subprocess.run([sys.executable, "-m", "governors", "--version"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.strip()


# send


@pytest.mark.parametrize("form", ["one", "array", "lines", "pretty", "cloudevent", "cloudevents"])
@pytest.mark.parametrize("where", ["file", "stdin", "dash"])
def test_send_takes_signals_in_every_form(service: ServiceProcess, tmp_path: Path, form: str, where: str) -> None:
    given = {
        "one": lambda: json.dumps(wire()),
        "pretty": lambda: json.dumps(wire(), indent=2),
        "array": lambda: json.dumps([wire(), wire()]),
        "lines": lambda: f"{json.dumps(wire())}\n\n{json.dumps(wire())}\n",
        "cloudevent": lambda: json.dumps(cloudevent()),
        "cloudevents": lambda: json.dumps([cloudevent(), cloudevent()]),
    }[form]()
    (tmp_path / "signals").write_text(given)
    argument = {"file": [str(tmp_path / "signals")], "stdin": [], "dash": ["-"]}[where]
    sent = run("send", *argument, "--url", service.url, "--json", stdin=given)
    assert sent.code == 0, sent.err
    results = sent.document["results"]
    assert len(results) == 1 + (form in {"array", "lines", "cloudevents"})
    assert {result["outcome"] for result in results} == {"decided"}
    assert all(result["receipt"] for result in results)


def cloudevent() -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": f"e-{next(_numbers)}",
        "source": "//queues/acme",
        "type": "gov.queue.sample.v1",
        "time": "2026-03-01T00:00:00Z",
        "subject": "orders",
        "tenant": "acme",
        "datacontenttype": "application/json",
        "data": {"depth": 1, "oldest_age_s": 0.1, "in_rate_per_s": 1.0, "done_rate_per_s": 1.0},
    }


def test_send_tells_people_what_was_decided_and_why(service: ServiceProcess) -> None:
    sent = run("send", "--url", service.url, stdin=json.dumps(wire("people")))
    assert sent.code == 0
    assert "people cost_guard/prod: decided throttle, UNBUDGETED -> THROTTLE: cost 910.25 of 1000.00 USD" in sent.out


def test_send_says_of_each_rejected_signal_what_is_wrong_and_ends_with_1(service: ServiceProcess) -> None:
    bad = wire("mixed")
    del bad["data"]["currency"]
    sent = run("send", "--url", service.url, stdin=json.dumps([wire("mixed"), bad]))
    assert sent.code == 1
    assert f"{bad['id']}  rejected: data.currency" in sent.out
    assert "decided throttle" in sent.out, "the good one was not held up"
    alone = run("send", "--url", service.url, "--json", stdin=json.dumps(bad))
    assert alone.code == 1
    (result,) = alone.document["results"]
    assert result["outcome"] == "rejected"
    assert result["error"]["field"] == "data.currency"


def test_send_waits_for_the_commit_where_asked(service: ServiceProcess) -> None:
    sent = run("send", "--url", service.url, "--wait", "committed", "--json", stdin=json.dumps(wire()))
    assert sent.document["results"][0]["durability"] == "committed"
    assert run("send", "--url", service.url, "--wait", "never", stdin=json.dumps(wire())).code == 2


def test_send_splits_what_is_too_much_for_one_request(service: ServiceProcess) -> None:
    signals = [wire("bulk", f"1.{number:04d}", id=f"bulk-{number}") for number in range(2_500)]
    lines = "\n".join(json.dumps(one) for one in signals)
    sent = run("send", "--url", service.url, "--json", stdin=lines)
    assert sent.code == 0
    assert [result["id"] for result in sent.document["results"]] == [one["id"] for one in signals]


@pytest.mark.parametrize(("stdin", "code"), [("", 2), (" \n", 2), ("hello", 1), ('{"id":', 1), ('[{"id": 1}', 1)])
def test_send_does_not_take_nothing_or_what_is_no_json(service: ServiceProcess, stdin: str, code: int) -> None:
    sent = run("send", "--url", service.url, stdin=stdin)
    assert (sent.code, sent.out) == (code, "")
    assert len(sent.err.splitlines()) == 1


def test_send_names_a_file_that_is_not_there(service: ServiceProcess, tmp_path: Path) -> None:
    sent = run("send", str(tmp_path / "none.json"), "--url", service.url)
    assert sent.code == 2
    assert "none.json: No such file" in sent.err


# A service that is not there


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.mark.parametrize("command", [["send"], ["tail"], ["tenants"], ["tenants", "acme"], ["receipts", "acme"]])
@pytest.mark.parametrize("url", ["nobody", "nonsense", "ftp://127.0.0.1", "http://[::1"])
def test_a_service_that_is_not_there_is_a_sentence_and_exit_2(command: list[str], url: str, nobody: str) -> None:
    asked = nobody if url == "nobody" else url
    for extra in ([], ["--json"]):
        done = run(*command, "--url", asked, *extra, stdin=json.dumps(wire()))
        assert (done.code, done.out) == (2, "")
        assert done.err.startswith(f"{asked} cannot be asked: ")
        assert len(done.err.splitlines()) == 1


def test_the_environment_may_name_the_service(service: ServiceProcess, nobody: str) -> None:
    assert run("tenants", env={"GOVERNORS_URL": service.url}).code == 0
    assert run("tenants", env={"GOVERNORS_URL": nobody}).code == 2


# tenants and receipts


def test_tenants_lists_them_and_shows_one_with_its_reasons(service: ServiceProcess) -> None:
    run("send", "--url", service.url, stdin=json.dumps(wire("shown")))
    listed = run("tenants", "--url", service.url)
    header, *rows = listed.out.splitlines()
    assert header.split() == ["TENANT", "STATE", "ENTITLEMENT", "PROFILE"]
    assert ["shown", "THROTTLE", "active", "standard"] in [row.split() for row in rows]
    names = [one["tenant"] for one in run("tenants", "--url", service.url, "--json").document["tenants"]]
    assert names == sorted(names)
    assert "shown" in names
    one = run("tenants", "shown", "--url", service.url)
    assert "cost_guard/prod: THROTTLE since" in one.out
    assert "cost 910.25 of 1000.00 USD is at or over 90 %" in one.out
    machines = run("tenants", "shown", "--url", service.url, "--json").document["machines"]
    assert [machine["state"] for machine in machines] == ["THROTTLE"]


def test_an_override_in_force_is_shown(service: ServiceProcess) -> None:
    run("send", "--url", service.url, stdin=json.dumps(wire("held")))
    grant = {"governor": "cost_guard", "subject": "prod", "mode": "hold", "ttl_s": 600, "by": "ada", "reason": "launch"}
    httpx.post(f"{service.url}/v1/tenants/held/overrides", json=grant).raise_for_status()
    shown = run("tenants", "held", "--url", service.url).out
    assert "override hold until" in shown
    assert "by ada: launch" in shown


@pytest.mark.parametrize("command", ["tenants", "receipts"])
@pytest.mark.parametrize("tenant", ["nobody", "a/b", "a b?c#d", "%2e%2e"])
def test_a_tenant_that_is_not_known_is_exit_1(service: ServiceProcess, command: str, tenant: str) -> None:
    done = run(command, tenant, "--url", service.url)
    assert (done.code, done.out) == (1, "")
    assert len(done.err.splitlines()) == 1


def test_receipts_come_in_pages_that_join_without_a_gap(service: ServiceProcess) -> None:
    run("send", "--url", service.url, stdin=json.dumps([wire("paged", f"1.0{digit}") for digit in range(5)]))
    whole = run("receipts", "paged", "--url", service.url, "--json").document
    assert whole["next"] is None
    indices = [one["index"] for one in whole["receipts"]]
    assert len(indices) >= 5
    paged: list[int] = []
    after = -1
    while True:
        page = run("receipts", "paged", "--url", service.url, "--limit", "2", "--after", str(after), "--json").document
        paged += [one["index"] for one in page["receipts"]]
        if page["next"] is None:
            break
        after = page["next"]
    assert paged == indices
    text = run("receipts", "paged", "--url", service.url, "--limit", "1")
    assert "UNBUDGETED -> NORMAL" in text.out
    assert f"--after {indices[0]}" in text.err


# tail


class Tail:
    """`governors tail` as a process whose lines a thread collects."""

    def __init__(self, service: ServiceProcess, *args: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "governors", "tail", "--url", service.url, *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.first = threading.Event()
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stdout:
            for line in stdout:
                self.lines.append(line)
                self.first.set()

    def provoke(self, service: ServiceProcess, tenant: str) -> None:
        """Decide things until it tells of one: when it listens nothing says."""
        for number in range(600):
            run("send", "--url", service.url, stdin=json.dumps(wire(f"{tenant}-{number}")))
            if self.first.wait(0.1):
                return
        raise AssertionError("tail told nothing")

    def end(self) -> tuple[int, str]:
        code = self.process.wait(GONE_S)
        self._reader.join(GONE_S)
        assert self.process.stderr is not None
        with self.process.stderr as stderr:
            return code, stderr.read()


def test_tail_tells_decisions_as_they_are_taken_until_it_is_interrupted(service: ServiceProcess) -> None:
    tail = Tail(service, "--json")
    tail.provoke(service, "tailed")
    tail.process.send_signal(signal.SIGINT)
    assert tail.end() == (0, "")
    first = json.loads(tail.lines[0])
    assert first["tenant"].startswith("tailed-")
    assert (first["decision"], first["state"]) == ("throttle", "THROTTLE")


def test_tail_says_so_when_the_service_goes_away(tmp_path: Path) -> None:
    with ServiceProcess(tmp_path / "data") as service:
        tail = Tail(service)
        tail.provoke(service, "t")
        assert service.stop() == 0
    assert tail.end() == (2, "the service has ended the stream\n")
    assert "decided throttle, UNBUDGETED -> THROTTLE" in tail.lines[0]


# verify, config, serve


def test_verify_log_tells_a_good_log_from_a_bad_one_and_from_none(tmp_path: Path) -> None:
    with ServiceProcess(tmp_path / "data") as service:
        run("send", "--url", service.url, stdin=json.dumps([wire("a"), wire("b")]))
        assert service.stop() == 0
    good = run("verify", "log", str(tmp_path / "data"), "--json")
    assert (good.code, good.document["ok"]) == (0, True)
    assert good.document["receipts"] >= 2
    assert run("verify", "log", str(tmp_path / "data")).out.splitlines()[-1].startswith("good: ")

    segment = max((tmp_path / "data" / "ledger").rglob("*.seg"))
    content = bytearray(segment.read_bytes())
    content[len(content) // 2] ^= 1
    segment.write_bytes(content)
    bad = run("verify", "log", str(tmp_path / "data"), "--json")
    assert (bad.code, bad.document["ok"]) == (1, False)
    assert bad.document["errors"]
    assert run("verify", "log", str(tmp_path / "data")).out.splitlines()[-1].startswith("BAD: ")

    none = run("verify", "log", str(tmp_path), "--json")
    assert (none.code, none.out) == (2, "")
    assert none.err.startswith("could not check: ")


def test_config_check_shows_where_each_value_comes_from(tmp_path: Path) -> None:
    file = tmp_path / "governors.yaml"
    file.write_text("http:\n  port: 9000\n")
    checked = run("config", "check", "--config", str(file), "--json", env={"GOVERNORS_LOG__LEVEL": "debug"})
    assert checked.code == 0
    rows = {row["key"]: (row["value"], row["origin"]) for row in checked.document["settings"]}
    assert rows["http.port"] == (9000, f"file {file}")
    assert rows["log.level"] == ("debug", "env GOVERNORS_LOG__LEVEL")
    assert rows["http.host"] == ("127.0.0.1", "default")
    text = run("config", "check", "--config", str(file)).out
    assert f"file {file}" in text


def test_config_check_names_everything_that_is_wrong_and_ends_with_1(tmp_path: Path) -> None:
    file = tmp_path / "governors.yaml"
    file.write_text("http:\n  port: -1\n  colour: red\n")
    text = run("config", "check", "--config", str(file))
    assert (text.code, text.out) == (1, "")
    assert len(text.err.splitlines()) == 2
    checked = run("config", "check", "--config", str(file), "--json")
    assert (checked.code, checked.err) == (1, "")
    assert checked.document["ok"] is False
    assert {problem["key"] for problem in checked.document["problems"]} == {"http.port", "http.colour"}


@pytest.mark.parametrize("what", ["port", "folder", "lock", "setting"])
def test_serve_says_in_a_sentence_why_it_cannot_start(service: ServiceProcess, tmp_path: Path, what: str) -> None:
    (tmp_path / "file").touch()
    arguments = {
        "port": ["--data-dir", str(tmp_path / "data"), "--port", service.url.rpartition(":")[2]],
        "folder": ["--data-dir", str(tmp_path / "file" / "data"), "--port", "0"],
        "lock": ["--data-dir", str(service.data_dir), "--port", "0"],
        "setting": ["--data-dir", str(tmp_path / "data"), "--host", "192.0.2.1"],
    }[what]
    done = subprocess.run(
        [sys.executable, "-m", "governors", "serve", *arguments],
        capture_output=True,
        text=True,
        timeout=GONE_S,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
