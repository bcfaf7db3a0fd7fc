"""Admission over HTTP: how many requests a second one worker answers, and how soon, beside a bare uvicorn route.

`governors serve` as it is, with a hundred tenants of which every tenth is stopped, asked as gateways ask: natively,
by NGINX's route and by Envoy's, and natively with a token. The peer is uvicorn with an ASGI function that answers every
request with the same bytes and looks at none.

Closed loop: every connection sends its next request when it has its answer; rounds alternate between all of them, and
what is compared is a round's figures with one another. Open loop: 5,000 requests a second whether they are answered or
not, each timed from when it was due. Client and server share the machine; the client does nothing but send and receive
(`support_gate.py`).
"""

import hashlib
import http.client
import json
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks.report import machine, parser, print_report, quantile, scratch
from benchmarks.support_gate import Gate
from benchmarks.support_process import Served, free_port

TARGET_OF_BARE: Final = 0.5
TARGET_P99_MS: Final = 10.0
TENANTS: Final = 100
STOPPED_EVERY: Final = 10
BARE: Final = "bare"
BARELY: Final = ("--no-access-log", "--no-proxy-headers", "--no-server-header", "--log-level", "warning")
TOKEN: Final = "gov_benchmark-0123456789"
# Yes and no, as each route says them.
EXPECTED: Final = {
    BARE: {200}, "native": {200, 429}, "nginx": {204, 403}, "envoy": {200, 429}, "native, token": {200, 429}
}  # fmt: skip


def requests_of(kind: str) -> list[bytes]:
    """A thousand requests of all tenants, users and classes."""
    made = []
    for number in range(1_000):
        tenant, user = f"tenant-{number % TENANTS:03d}", f"user-{number * 7 % 997}"
        klass = ("normal", "high", "low", "critical")[number // TENANTS % 4]
        common = "host: governors\r\n"
        headers = f"x-governor-tenant: {tenant}\r\nx-governor-class: {klass}\r\nx-governor-user: {user}\r\n"
        match kind:
            case "nginx":
                text = f"GET /v1/admit/nginx HTTP/1.1\r\n{common}{headers}"
            case "envoy":
                text = f"GET /v1/admit/envoy/orders/{number}?page=2 HTTP/1.1\r\n{common}content-length: 0\r\n{headers}"
            case _:
                text = f"GET /v1/admit?tenant={tenant}&class={klass}&user={user} HTTP/1.1\r\n{common}"
        if kind == "native, token":
            text += f"authorization: Bearer {TOKEN}\r\n"
        made.append(f"{text}\r\n".encode())
    return made


def teach(served: Served, headers: dict[str, str]) -> None:
    """Make the tenants known, every tenth of them over its budget: of it, only what is critical passes."""
    now = datetime.now(UTC)
    lines = []
    for number in range(TENANTS):
        cost = "1100.00" if number % STOPPED_EVERY == 0 else "100.00"
        data = {
            "cost_amount": cost, "budget_amount": "1000.00", "currency": "USD",
            "interval_start": now.strftime("%Y-%m-01T00:00:00Z"),
        }  # fmt: skip
        signal = {
            "id": f"b-{number}", "source": "benchmark", "tenant": f"tenant-{number:03d}", "kind": "cost.snapshot",
            "subject": "all", "observed_at": now.isoformat().replace("+00:00", "Z"), "data": data,
        }  # fmt: skip
        lines.append(json.dumps(signal))
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60.0)
    connection.request("POST", "/v1/signals", "\n".join(lines), {"content-type": "application/x-ndjson", **headers})
    results = json.loads(connection.getresponse().read())["results"]
    connection.close()
    if Counter(one.get("state") for one in results)["STOP"] != TENANTS // STOPPED_EVERY:
        raise RuntimeError(f"the tenants were not decided as expected: {results[:2]}")


def start_all(stack: ExitStack, folder: Path) -> dict[str, Served]:
    """The server that each kind of request goes to."""
    tokens = folder / "tokens.yaml"
    digest = hashlib.sha256(TOKEN.replace(" ", "-").encode()).hexdigest()
    tokens.write_text(json.dumps({"tokens": [{"name": "gateway", "sha256": digest, "roles": ["admit", "ingest"]}]}))
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "benchmarks.support_bare:app", "--port", str(port)]
    bare = Served([*command, *BARELY], port, "/", log=folder / "bare.log")
    servers = {BARE: stack.enter_context(bare)}
    for name, auth in (("open", {}), ("token", {"auth": {"tokens_file": str(tokens)}})):
        config = folder / f"{name}.yaml"
        config.write_text(json.dumps({"data_dir": str(folder / name), "tenants": {"auto_create": True}, **auth}))
        port = free_port()
        command = [sys.executable, "-m", "governors", "serve", "--config", str(config), "--port", str(port)]
        served = stack.enter_context(Served(command, port, "/readyz", log=folder / f"{name}.log"))
        teach(served, {"authorization": f"Bearer {TOKEN}"} if auth else {})
        for kind in ("native, token",) if auth else ("native", "nginx", "envoy"):
            servers[kind] = served
    return servers


def check(kind: str, statuses: Counter[int]) -> None:
    """Every answer must be one that was to be expected."""
    if not set(statuses) <= EXPECTED[kind]:
        raise RuntimeError(f"{kind}: unexpected answers: {statuses}")
    refused = sum(count for status, count in statuses.items() if status not in {200, 204})
    if kind != BARE and not 0 < refused < sum(statuses.values()) / STOPPED_EVERY:
        raise RuntimeError(f"{kind}: {refused} of {sum(statuses.values())} refused")


def measure(servers: dict[str, Served], options: Any) -> dict[str, Any]:
    rates: dict[str, list[float]] = {kind: [] for kind in servers}
    cpu_us: dict[str, list[float]] = {kind: [] for kind in servers}
    requests = {kind: requests_of(kind) for kind in servers}
    for number in range(options.rounds + 1):
        for kind, served in servers.items():
            gate = Gate(served.port, options.connections)
            cpu_s = served.cpu_s_now()
            # The first round warms up.
            answered = gate.closed_loop(requests[kind], options.seconds if number else 1.0)
            cpu_s = served.cpu_s_now() - cpu_s
            gate.close()
            check(kind, answered.statuses)
            if number:
                count = sum(answered.statuses.values())
                rates[kind].append(count / answered.seconds)
                cpu_us[kind].append(cpu_s * 1e6 / count)
    found: dict[str, Any] = {}
    for kind, served in servers.items():
        gate = Gate(served.port, options.connections)
        answered = gate.open_loop(requests[kind], options.rate, options.open_seconds)
        gate.close()
        check(kind, answered.statuses)
        ordered = sorted(answered.times_s)
        found[kind] = {
            "per_s": round(median(rates[kind])),
            "of_bare": round(median(ours / bare for ours, bare in zip(rates[kind], rates[BARE], strict=True)), 3),
            "cpu_us": round(median(cpu_us[kind]), 1),
            "cpu_of_bare": round(median(ours / bare for ours, bare in zip(cpu_us[kind], cpu_us[BARE], strict=True)), 2),
            "p50_ms": round(quantile(ordered, 0.5) * 1e3, 2),
            "p99_ms": round(quantile(ordered, 0.99) * 1e3, 2),
            "p999_ms": round(quantile(ordered, 0.999) * 1e3, 2),
        }
    return found


def main() -> int:
    options_of = parser(__doc__ or "")
    options_of.add_argument("--rounds", type=int, default=5)
    options_of.add_argument("--seconds", type=float, default=2.0, help="of each closed loop")
    options_of.add_argument("--open-seconds", type=float, default=10.0, help="of each open loop")
    options_of.add_argument("--rate", type=float, default=5_000.0, help="requests a second of the open loop")
    options_of.add_argument("--connections", type=int, default=32)
    options = options_of.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=scratch())))
        found = measure(start_all(stack, folder), options)
    ours = {kind: figures for kind, figures in found.items() if kind != BARE}
    ok = all(one["of_bare"] >= TARGET_OF_BARE and one["p99_ms"] < TARGET_P99_MS for one in ours.values())
    report = {
        "benchmark": "admission", "machine": machine(), "target_of_bare": TARGET_OF_BARE,
        "target_p99_ms": TARGET_P99_MS, "rate_per_s": options.rate, "ok": ok, "routes": found,
    }  # fmt: skip
    targets = f"{TARGET_OF_BARE:g} of bare; at {options.rate:,.0f}/s p99 < {TARGET_P99_MS:g} ms"
    lines = [f"{options.connections} connections; targets: {targets}"]
    for kind, one in found.items():
        good = kind == BARE or (one["of_bare"] >= TARGET_OF_BARE and one["p99_ms"] < TARGET_P99_MS)
        rate = f"{kind:<14} {one['per_s']:>7,}/s  {one['of_bare']:.2f} of bare  {one['cpu_us']:.0f} us CPU"
        times = f"p50 {one['p50_ms']:.2f}  p99 {one['p99_ms']:.2f}  p99.9 {one['p999_ms']:.2f} ms"
        lines.append(f"{rate}   at the rate: {times}{'' if good else '   MISSED'}")
    print_report(report, lines, as_json=options.json)
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
