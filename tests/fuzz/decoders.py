"""`make fuzz`: every decoder under a fuzzer that is led by the branches which an input takes.

An input is a byte for the target and the rest for the decoder. What may come out is what the docstrings promise: a
signal, nothing, or a rejection; anything else is a crash, whose input is kept as `crash-…`. That nothing hangs or grows
is the fuzzer's own to watch: `-timeout` and `-rss_limit_mb`, which the Makefile sets.
"""

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import atheris

with atheris.instrument_imports(include=["ingest"]):
    from ingest.decode.alertmanager import open_group
    from ingest.decode.body import MEDIA_TYPES, read_body
    from ingest.decode.cloudevents_binary import read_event
    from ingest.decode.limits import DEFAULT_LIMITS
    from ingest.decode.message import read_message
    from ingest.decode.push import read_push
    from ingest.decode.tenants import Routing, Rule
    from ingest.errors import BodyRejectedError, SignalRejectedError
    from ingest.source import Delivery

from support import foreign

ROUTING: Final = Routing([Rule(tenant_from="label.tenant", subject_from="label.service"), Rule(tenant="rest")])
SEPARATOR: Final = b"\x00"


def fuzz_message(data: bytes) -> None:
    """Attributes as `name=value`, a zero byte between them and two before the payload."""
    head, _, payload = data.partition(SEPARATOR * 2)
    pairs = (pair.partition(b"=") for pair in head.split(SEPARATOR))
    attributes = {name.decode("utf-8", "replace"): value.decode("utf-8", "replace") for name, _, value in pairs if name}
    read_message(foreign.message(payload, attributes), ROUTING, foreign.NOON_US)


def fuzz_body(data: bytes) -> None:
    """The first byte chooses the media type."""
    read_body([*MEDIA_TYPES][data[0] % len(MEDIA_TYPES)] if data else "", data[1:], foreign.NOON_US)


def fuzz_alerts(data: bytes) -> None:
    list(open_group(data, DEFAULT_LIMITS).entries(ROUTING, foreign.NOON_US, DEFAULT_LIMITS))


def fuzz_push(data: bytes) -> None:
    """What is in the envelope is read as well."""
    message: Delivery = read_push(data, DEFAULT_LIMITS).message
    read_message(message, ROUTING, foreign.NOON_US)


def fuzz_event(data: bytes) -> None:
    """Headers as `name:value` lines, and an empty line before the body."""
    head, _, body = data.partition(b"\n\n")
    pairs = (line.decode("latin-1").partition(":") for line in head.split(b"\n"))
    headers = [(name.lower(), value) for name, _, value in pairs]
    read_event(headers, dict(headers).get("content-type", ""), body, foreign.NOON_US)


TARGETS: Final[tuple[Callable[[bytes], None], ...]] = (fuzz_message, fuzz_body, fuzz_alerts, fuzz_push, fuzz_event)


def fuzz(data: bytes) -> None:
    """One input."""
    if not data:
        return
    with contextlib.suppress(SignalRejectedError, BodyRejectedError):
        TARGETS[data[0] % len(TARGETS)](data[1:])


def seeds() -> list[bytes]:
    """Good inputs of every format, from which the fuzzer sets out."""
    messages = [
        foreign.budget(),
        foreign.incident(),
        foreign.incident("test"),
        foreign.rollout(),
        foreign.message(b"", foreign.APPROVAL),
        foreign.message(b'{"depth":1}', {"ce-specversion": "1.0", "ce-type": "gov.queue.sample.v1", "ce-id": "1"}),
    ]
    found = [
        b"\x00" + SEPARATOR.join(f"{name}={value}".encode() for name, value in one.attributes.items())
        + SEPARATOR * 2 + one.payload
        for one in messages
    ]  # fmt: skip
    native = (
        b'{"id":"1","source":"s","tenant":"acme","kind":"queue.sample","observed_at":"2026-11-22T10:00:00Z",'
        b'"data":{"depth":1,"oldest_age_s":0.5,"in_rate_per_s":1,"done_rate_per_s":1}}'
    )
    event = b'{"specversion":"1.0","id":"1","source":"//gov/acme","type":"gov.queue.sample.v1","data":{"depth":1}}'
    found += [b"\x01" + bytes([index]) + body for index, body in enumerate([native, native, native, event, event])]
    found += [b"\x02" + foreign.group(foreign.ALERT), b"\x03" + foreign.push(foreign.budget())]
    found.append(b"\x04ce-specversion:1.0\nce-id:1\nce-type:gov.queue.sample.v1\nce-source://gov/acme\n\n" + b"{}")
    return found


def main() -> None:
    """`decoders.py FOLDER …`: the folder keeps inputs between runs; the rest are libFuzzer's options."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds()):
        (folder / f"seed-{number:02}").write_bytes(seed)
    atheris.Setup(sys.argv, fuzz)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
