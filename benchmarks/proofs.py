"""Proofs: making them, checking them, how large they are, and what a running service takes to hand one out.

In one process, over one tree of made-up leaves: inclusion proofs are made from tiles, and checked as a receipt's
holder does it: without the log's signature (tree alone), under a checkpoint that was opened before, and with everything
(parse the file, check the note's signature, climb the path). Peers over the same leaves: pymerkle and scitt-cose for
the tree, scitt-cose's signed receipts for the whole, and the bare Ed25519 check of `cryptography` as its floor.

From `governors serve` over a log that it has published: `GET /v1/receipts/{id}/proof` for receipts at random over one
connection. The peer is uvicorn with FastAPI, handing out as many bytes from memory.
"""

import http.client
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import scitt_cose  # type: ignore[import-untyped]  # it ships no types
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from pymerkle import InclusionProof, InmemoryTree
from pymerkle import verify_inclusion as pymerkle_verify

from benchmarks.report import machine, parser, print_report, quantile, scratch
from benchmarks.start import start_ours, write_log
from benchmarks.support_process import Served, free_port
from ledger.format import proof
from ledger.format.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from ledger.format.merkle import leaf_hash, verify_inclusion
from ledger.format.note import Signer
from ledger.format.proof import TlogProof
from ledger.format.tiles import TileTree, inclusion_proof

TARGET_CHECK_PER_S: Final = 50_000
TARGET_CHECK_SIGNED_PER_S: Final = 8_000
TARGET_P99_MS: Final = 10.0
TARGET_PROOF_BYTES: Final = 1_500
"""Without the leaf, in a log of ten million."""
TARGET_BUNDLE_BYTES: Final = 2_048
"""With the leaf, in a log of a million."""
LEAF_BYTES: Final = 650
ORIGIN: Final = "benchmark.example/log/0"
_SAMPLE: Final = 500
_SCITT_RECEIPTS: Final = 4
_ROUNDS: Final = 5
_ROUND_S: Final = 0.2
_PUBLISHED_S: Final = 300.0
_PEER: Final = """
import sys, uvicorn
from fastapi import FastAPI, Response
app = FastAPI()
body = b"p" * int(sys.argv[2])
@app.get("/v1/receipts/{receipt_id}/proof")
async def proof(receipt_id: str) -> Response:
    return Response(body, media_type="text/plain")
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_config=None, access_log=False)
"""


def make_leaf(index: int) -> bytes:
    return f"leaf {index} ".encode().ljust(LEAF_BYTES, b".")


def make_tree(size: int) -> TileTree:
    tree = TileTree()
    tree.extend(b"".join([leaf_hash(make_leaf(index)) for index in range(size)]))
    return tree


def per_s(calls: Sequence[Callable[[], object]]) -> float:
    """Calls a second: the median of some rounds, each of which makes all the calls as often as takes a moment."""
    rates = []
    for _ in range(_ROUNDS):
        made = 0
        begun_s = time.perf_counter()
        while (taken_s := time.perf_counter() - begun_s) < _ROUND_S:
            for call in calls:
                call()
            made += len(calls)
        rates.append(made / taken_s)
    return statistics.median(rates)


@dataclass(frozen=True, slots=True)
class Sample:
    """Some leaves of a tree, and their proofs as files."""

    size: int
    indices: list[int]
    leaves: list[bytes]
    paths: list[list[bytes]]
    note: bytes
    files: list[bytes]


def measure_ours(tree: TileTree, indices: list[int], signer: Signer) -> tuple[Sample, dict[str, float]]:
    """Rates of making and checking, and what was made."""
    root, size = tree.root(), tree.size
    note = sign_checkpoint(Checkpoint(ORIGIN, size, root), signer)
    leaves = [make_leaf(index) for index in indices]
    paths = [inclusion_proof(index, size, tree.tile) for index in indices]
    files = [
        proof.encode(TlogProof(index, tuple(path), note, leaf))
        for index, path, leaf in zip(indices, paths, leaves, strict=True)
    ]
    opened = open_checkpoint(note, signer.verifier, ORIGIN)

    def check(file: bytes, leaf: bytes) -> None:
        proof.verify(leaf, proof.decode(file), signer.verifier, ORIGIN)

    def check_warm(file: bytes, leaf: bytes) -> None:
        proof.verify_at(leaf, proof.decode(file), opened)

    def check_tree(index: int, leaf: bytes, path: list[bytes]) -> None:
        verify_inclusion(leaf_hash(leaf), index, size, path, root)

    with_files = list(zip(files, leaves, strict=True))
    rates = {
        "make": per_s([partial(inclusion_proof, index, size, tree.tile) for index in indices]),
        "check_tree": per_s([partial(check_tree, *given) for given in zip(indices, leaves, paths, strict=True)]),
        "check_warm": per_s([partial(check_warm, *given) for given in with_files]),
        "check_signed": per_s([partial(check, *given) for given in with_files]),
    }
    return Sample(size, indices, leaves, paths, note, files), rates


def measure_pymerkle(sample: Sample, root: bytes) -> dict[str, float]:
    """Making and checking over the same leaves, without any signature: it knows none."""
    tree = InmemoryTree(algorithm="sha256")
    for index in range(sample.size):
        tree.append_entry(make_leaf(index))
    if tree.get_root() != root:
        raise AssertionError("pymerkle has another root")
    proofs = [tree.prove_inclusion(index + 1, sample.size) for index in sample.indices]

    def check(leaf: bytes, made: InclusionProof) -> None:
        pymerkle_verify(leaf_hash(leaf), root, made, size=sample.size)

    return {
        "make": per_s([partial(tree.prove_inclusion, index + 1, sample.size) for index in sample.indices]),
        "check_tree": per_s([partial(check, *given) for given in zip(sample.leaves, proofs, strict=True)]),
    }


def measure_scitt(sample: Sample, root: bytes, seed: bytes) -> dict[str, float]:
    """Checking the same paths, and its own signed receipts (COSE) of a few of the leaves."""
    key = Ed25519PrivateKey.from_private_bytes(seed)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    entries = [make_leaf(index).hex() for index in range(sample.size)]
    receipts = [
        (
            entries[index],
            scitt_cose.build_receipt(
                leaf_entry_hex=entries[index],
                leaf_index=index,
                tree_entries_hex=entries,
                alg="EdDSA",
                log_private_key_pem=private,
            ),
        )
        for index in sample.indices[:_SCITT_RECEIPTS]
    ]
    root_hex = root.hex()
    given_paths = [
        (entries[index], index, [each.hex() for each in path])
        for index, path in zip(sample.indices, sample.paths, strict=True)
    ]

    def check_tree(entry: str, index: int, path: list[str]) -> None:
        if not scitt_cose.verify_inclusion(entry, index, sample.size, path, root_hex):
            raise AssertionError("scitt-cose does not agree")

    def check(entry: str, receipt: bytes) -> None:
        found = scitt_cose.verify_receipt(receipt, leaf_entry_hex=entry, log_public_key_pem=public)
        if found.errors:
            raise AssertionError(f"scitt-cose refuses its own receipt: {found.errors}")

    return {
        "check_tree": per_s([partial(check_tree, *given) for given in given_paths]),
        "check_signed": per_s([partial(check, *given) for given in receipts]),
    }


def measure_ed25519(note: bytes, seed: bytes) -> float:
    """Bare signature checks a second, over as many bytes as a checkpoint has."""
    key = Ed25519PrivateKey.from_private_bytes(seed)
    public, signature = key.public_key(), key.sign(note)
    return per_s([lambda: public.verify(signature, note)])


def proof_bytes(size: int, signer: Signer, leaf: bytes | None) -> int:
    """How large the longest proof file in a log of that size is."""
    note = sign_checkpoint(Checkpoint(ORIGIN, size, bytes(32)), signer)
    depth = (size - 1).bit_length()
    return len(proof.encode(TlogProof(size - 1, (bytes(32),) * depth, note, leaf)))


def measure_offline(size: int) -> dict[str, Any]:
    rng = random.Random(5)
    seed = rng.randbytes(32)
    signer = Signer(ORIGIN, seed)
    tree = make_tree(size)
    sample, ours = measure_ours(tree, rng.sample(range(size), min(size, _SAMPLE)), signer)
    bundle, largest = proof_bytes(1_000_000, signer, make_leaf(0)), proof_bytes(10_000_000, signer, None)
    return {
        "tree_size": size,
        "leaf_bytes": LEAF_BYTES,
        "ours_per_s": _rounded(ours),
        "pymerkle_per_s": _rounded(measure_pymerkle(sample, tree.root())),
        "scitt_cose_per_s": _rounded(measure_scitt(sample, tree.root(), seed)),
        "ed25519_per_s": round(measure_ed25519(sample.note, seed)),
        "bundle_bytes_at_1m": bundle,
        "proof_bytes_at_10m_without_leaf": largest,
        "ok": ours["check_tree"] >= TARGET_CHECK_PER_S
        and ours["check_signed"] >= TARGET_CHECK_SIGNED_PER_S
        and bundle < TARGET_BUNDLE_BYTES
        and largest <= TARGET_PROOF_BYTES,
    }


@dataclass(frozen=True, slots=True)
class Answers:
    """Milliseconds of each request, in order of size; bytes of the largest answer, and of it without the leaf."""

    ms: list[float]
    body_bytes: int
    proof_bytes: int


def ask(served: Served, receipts: Iterable[int]) -> Answers:
    """One request after the other over one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60.0)
    taken_ms, largest = [], b""
    for index in receipts:
        begun_s = time.perf_counter()
        connection.request("GET", f"/v1/receipts/0:{index}/proof", headers={"accept": "text/plain"})
        response = connection.getresponse()
        body = response.read()
        taken_ms.append((time.perf_counter() - begun_s) * 1e3)
        if response.status != 200:
            raise RuntimeError(f"receipt {index}: {response.status}: {body[:500]!r}")
        largest = max(largest, body, key=len)
    connection.close()
    without_leaf = b"\n".join(line for line in largest.split(b"\n") if not line.startswith(b"extra "))
    return Answers(sorted(taken_ms), len(largest), len(without_leaf))


def wait_until_published(served: Served, receipts: int) -> None:
    """The log was never served before: its tiles are written at the first start."""
    deadline_s = time.monotonic() + _PUBLISHED_S
    while True:
        try:
            ask(served, range(0, receipts, 1 << 14))
            return
        except RuntimeError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.2)


def measure_served(receipts: int, requests: int, folder: Path) -> dict[str, Any]:
    """A first pass over receipts that nobody asked for yet, then a second over the same."""
    write_log(folder / "data", receipts)
    rng = random.Random(9)
    wanted = [rng.randrange(receipts) for _ in range(requests)]
    with start_ours(folder / "data", folder / "output") as service:
        wait_until_published(service, receipts)
        first, again = ask(service, wanted), ask(service, wanted)
        service.stop()
    port = free_port()
    command = [sys.executable, "-c", _PEER, str(port), str(again.body_bytes)]
    with Served(command, port, "/v1/receipts/0:0/proof", log=folder / "output") as peer:
        ask(peer, wanted)
        theirs = ask(peer, wanted)
    results = {
        name: {"p50_ms": round(quantile(one.ms, 0.5), 2), "p99_ms": round(quantile(one.ms, 0.99), 2)}
        for name, one in {"first": first, "again": again, "peer": theirs}.items()
    }
    return {
        "receipts": receipts,
        "requests": requests,
        "body_bytes_max": again.body_bytes,
        "proof_bytes_without_leaf": again.proof_bytes,
        "peer": "uvicorn with FastAPI, the same bytes from memory",
        **results,
        "ok": results["first"]["p99_ms"] < TARGET_P99_MS,
    }


def _rounded(rates: dict[str, float]) -> dict[str, int]:
    return {name: round(rate) for name, rate in rates.items()}


def offline_lines(report: dict[str, Any]) -> list[str]:
    ours, merkle, scitt = report["ours_per_s"], report["pymerkle_per_s"], report["scitt_cose_per_s"]
    return [
        f"a tree of {report['tree_size']:,} leaves of {LEAF_BYTES} bytes",
        f"make from tiles: {ours['make']:,}/s; pymerkle {merkle['make']:,}/s",
        f"check, tree alone: {ours['check_tree']:,}/s, target {TARGET_CHECK_PER_S:,}/s",
        f"    pymerkle {merkle['check_tree']:,}/s, scitt-cose {scitt['check_tree']:,}/s",
        f"check a file under an opened checkpoint: {ours['check_warm']:,}/s",
        f"check a file with its signature: {ours['check_signed']:,}/s, target {TARGET_CHECK_SIGNED_PER_S:,}/s",
        f"    scitt-cose's receipts {scitt['check_signed']:,}/s, Ed25519 alone {report['ed25519_per_s']:,}/s",
        f"bytes of a bundle among 1,000,000: {report['bundle_bytes_at_1m']:,}, target < {TARGET_BUNDLE_BYTES:,}",
        f"bytes of a proof without leaf among 10,000,000: {report['proof_bytes_at_10m_without_leaf']:,}",
    ]


def served_lines(report: dict[str, Any]) -> list[str]:
    first, again, peer = report["first"], report["again"], report["peer"]
    return [
        f"over HTTP, {report['receipts']:,} receipts",
        f"largest answer: {report['body_bytes_max']:,} bytes, without leaf {report['proof_bytes_without_leaf']:,}",
        f"asked first: p50 {first['p50_ms']} ms, p99 {first['p99_ms']} ms, target p99 < {TARGET_P99_MS:g} ms",
        f"asked again: p50 {again['p50_ms']} ms, p99 {again['p99_ms']} ms",
        f"uvicorn with FastAPI, as many bytes: p50 {peer['p50_ms']} ms, p99 {peer['p99_ms']} ms",
    ]


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--size", type=int, default=100_000, help="leaves of the tree in this process")
    options.add_argument("--receipts", type=int, default=100_000, help="in the service's log; 0 leaves the service out")
    options.add_argument("--requests", type=int, default=2_000)
    given = options.parse_args()
    report: dict[str, Any] = {"offline": measure_offline(given.size)}
    lines = offline_lines(report["offline"])
    if given.receipts:
        with tempfile.TemporaryDirectory(dir=scratch()) as folder:
            report["served"] = measure_served(given.receipts, given.requests, Path(folder))
        lines += served_lines(report["served"])
    print_report({"benchmark": "proofs", "machine": machine(), **report}, lines, as_json=given.json)


if __name__ == "__main__":
    main()
