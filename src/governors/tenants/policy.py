"""The policy document: all that decisions depend on besides the log. It is itself in the log, as a payload.

Before the first decision under a document, a receipt of the runtime's own (`policy.loaded`) commits to it. The
`policy_digest` of every other receipt is the SHA-256 of one profile of the document then in force, as canonical JSON.
"""

import hashlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import msgspec
import orjson
from msgspec import Struct

from governors.machines.catalog import BY_NAME, RUNTIME
from governors.machines.profiles import PolicyOverrides, Profile, ProfileError, build_profile
from governors.tenants.decide import Decided
from governors.tenants.records import Header, state_key
from governors.tenants.terms import Book, Terms, make_book
from governors.tenants.windows import Window
from ingest.signals import DEFAULT_SUBJECT

DOCUMENT_VERSION: Final = 3
POLICY_LOADED: Final = "policy.loaded"
EMERGENCY_STOP: Final = "emergency.stop"
# Whose chain it is; no sender can name a tenant like this.
RUNTIME_TENANT: Final = "_runtime"
POLICY_KEY: Final = state_key(RUNTIME_TENANT)


class PolicyUnknownError(ValueError):
    """A policy document that this program cannot decide under: an older or a newer one can."""


class PolicyDocument(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`machines` are the governors' versions, `profiles` their policies in full: profile -> governor -> key -> value.
    `tenants` has what differs for single ones: tenant -> governor -> key -> value; `windows` when other terms hold.

    The other members are the settings of the same names (`window_ids` is `dedup.window_ids`).
    """

    auto_create: bool
    dead_letter_after: int
    default_profile: str
    machines: dict[str, int]
    machines_max: int
    profiles: dict[str, dict[str, Any]]
    tenants: dict[str, dict[str, dict[str, Any]]]
    v: int
    window_ids: int
    windows: tuple[Window, ...]


class Policy(Struct, frozen=True):
    """A document in use, and the `book` of the terms that it has. `encoded` is its canonical JSON, `digest` the SHA-256
    (hex) of that.
    """

    document: PolicyDocument
    profiles: dict[str, Profile]
    book: Book
    encoded: bytes
    digest: str


class InForce:
    """What all decisions are taken under now; `stopped` is everybody's emergency stop. Only what has its receipt is put
    here.
    """

    __slots__ = ("policy", "stopped")

    def __init__(self, policy: Policy, *, stopped: bool) -> None:
        self.policy = policy
        self.stopped = stopped

    def terms(self, header: Header, now_us: int) -> Terms:
        """A tenant's terms now. Raises KeyError for a profile that there is not."""
        return terms_of(self.policy, header, header.tenant, now_us, stopped=self.stopped)


def terms_of(policy: Policy, header: Header, name: str, now_us: int, *, stopped: bool) -> Terms:
    """The terms of the tenant called `name`. Raises KeyError for a profile that there is not."""
    if header.entitlement == "unknown":
        return policy.book.plain(header.profile)
    return policy.book.of(name, header.profile, now_us, stopped=stopped or header.stopped)


def make_policy(
    profiles: dict[str, Profile],
    *,
    auto_create: bool,
    dead_letter_after: int,
    default_profile: str,
    machines_max: int,
    window_ids: int,
    tenants: Mapping[str, PolicyOverrides] = MappingProxyType({}),
    windows: Sequence[Window] = (),
) -> Policy:
    """The policy that a configuration comes to: what its document says, so that nothing else can be meant.

    Raises PolicyUnknownError for what cannot be.
    """
    document = PolicyDocument(
        auto_create=auto_create,
        dead_letter_after=dead_letter_after,
        default_profile=default_profile,
        machines=_versions(),
        machines_max=machines_max,
        profiles={name: msgspec.to_builtins(profile.policies) for name, profile in profiles.items()},
        tenants={name: {key: dict(values) for key, values in pack.items()} for name, pack in tenants.items()},
        v=DOCUMENT_VERSION,
        window_ids=window_ids,
        windows=tuple(windows),
    )
    return read_policy(orjson.dumps(msgspec.to_builtins(document), option=orjson.OPT_SORT_KEYS))


def read_policy(encoded: bytes) -> Policy:
    """The policy of a document from the log. Raises PolicyUnknownError."""
    try:
        document = _decode(encoded)
        profiles = {name: build_profile(name, pack) for name, pack in document.profiles.items()}
        overridden = {
            (tenant, name): build_profile(name, _merged(pack, changes))
            for tenant, changes in document.tenants.items()
            for name, pack in document.profiles.items()
        }
    except (msgspec.DecodeError, UnicodeDecodeError, ProfileError) as error:
        raise PolicyUnknownError(f"this program cannot read the policy: {error}") from error
    versions = _versions()
    if document.v != DOCUMENT_VERSION or document.machines != versions:
        raise PolicyUnknownError(
            f"the policy is for machines {document.machines}, and this program has {versions}: run the program that "
            "decided under it"
        )
    if document.default_profile not in profiles:
        raise PolicyUnknownError(f"the policy has no profile {document.default_profile!r}")
    for window in document.windows:
        if window.profile and window.profile not in profiles:
            raise PolicyUnknownError(f"the window {window.name!r} puts an unknown profile in force: {window.profile!r}")
    book = make_book(profiles, overridden, document.windows, BY_NAME)
    return Policy(document, profiles, book, encoded, hashlib.sha256(encoded).hexdigest())


def load_policy(before: str, policy: Policy, now_us: int) -> Decided:
    """Put a policy in force. `before` is the digest of the document until now, "" when there was none."""
    return Decided(
        outcome="decided",
        decision="load",
        rule="runtime.policy_loaded",
        evidence={"digest": policy.digest, "window_ids": policy.document.window_ids},
        governor=RUNTIME,
        version=DOCUMENT_VERSION,
        subject=DEFAULT_SUBJECT,
        event=POLICY_LOADED,
        from_status=before,
        to_status=policy.digest,
        event_id=f"policy-{now_us}",
    )


class Stop(Struct, frozen=True):
    """The payload of an emergency stop for everybody, or of its end: `by` is whose word it is, `reason` why."""

    by: str
    reason: str
    stopped: bool


def stop_everybody(change: Stop, now_us: int) -> Decided:
    """Stop all governors from acting, or let them act again."""
    return Decided(
        outcome="decided",
        decision="emergency_stop" if change.stopped else "resume",
        rule="runtime.emergency_stop" if change.stopped else "runtime.resumed",
        evidence={"by": change.by, "reason": change.reason},
        governor=RUNTIME,
        version=DOCUMENT_VERSION,
        subject=DEFAULT_SUBJECT,
        event=EMERGENCY_STOP,
        from_status="ACTING" if change.stopped else "STOPPED",
        to_status="STOPPED" if change.stopped else "ACTING",
        event_id=f"emergency-stop-{now_us}",
    )


def encode_stop(change: Stop) -> bytes:
    """The payload."""
    return msgspec.json.encode(change)


def decode_stop(payload: bytes) -> Stop:
    """Raises msgspec.ValidationError, msgspec.DecodeError."""
    return msgspec.json.decode(payload, type=Stop)


def _merged(pack: PolicyOverrides, changes: PolicyOverrides) -> dict[str, dict[str, Any]]:
    return {name: {**pack.get(name, {}), **changes.get(name, {})} for name in {**pack, **changes}}


def _versions() -> dict[str, int]:
    return {name: governor.version for name, governor in BY_NAME.items()}


_decode: Final = msgspec.json.Decoder(PolicyDocument).decode
