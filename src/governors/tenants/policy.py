"""The policy document: all that decisions depend on besides the log. It is itself in the log, as a payload.

Before the first decision under a document, a receipt of the runtime's own (`policy.loaded`) commits to it. The
`policy_digest` of every other receipt is the SHA-256 of one profile of the document then in force, as canonical JSON.
"""

import hashlib
from typing import Any, Final

import msgspec
import orjson
from msgspec import Struct

from governors.machines.catalog import BY_NAME, RUNTIME
from governors.machines.profiles import Profile, ProfileError, build_profile
from governors.tenants.decide import Decided
from governors.tenants.records import state_key
from ingest.signals import DEFAULT_SUBJECT

DOCUMENT_VERSION: Final = 1
POLICY_LOADED: Final = "policy.loaded"
# Whose chain it is; no sender can name a tenant like this.
RUNTIME_TENANT: Final = "_runtime"
POLICY_KEY: Final = state_key(RUNTIME_TENANT)


class PolicyUnknownError(ValueError):
    """A policy document that this program cannot decide under: an older or a newer one can."""


class PolicyDocument(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`machines` are the governors' versions, `profiles` their policies in full: profile -> governor -> key -> value.

    The other members are the settings of the same names (`window_ids` is `dedup.window_ids`).
    """

    auto_create: bool
    dead_letter_after: int
    default_profile: str
    machines: dict[str, int]
    machines_max: int
    profiles: dict[str, dict[str, Any]]
    v: int
    window_ids: int


class Policy(Struct, frozen=True):
    """A document in use. `encoded` is its canonical JSON, `digest` the SHA-256 (hex) of that."""

    document: PolicyDocument
    profiles: dict[str, Profile]
    encoded: bytes
    digest: str


def make_policy(
    profiles: dict[str, Profile],
    *,
    auto_create: bool,
    dead_letter_after: int,
    default_profile: str,
    machines_max: int,
    window_ids: int,
) -> Policy:
    """The policy that a configuration comes to: what its document says, so that nothing else can be meant."""
    document = PolicyDocument(
        auto_create=auto_create,
        dead_letter_after=dead_letter_after,
        default_profile=default_profile,
        machines=_versions(),
        machines_max=machines_max,
        profiles={name: msgspec.to_builtins(profile.policies) for name, profile in profiles.items()},
        v=DOCUMENT_VERSION,
        window_ids=window_ids,
    )
    return read_policy(orjson.dumps(msgspec.to_builtins(document), option=orjson.OPT_SORT_KEYS))


def read_policy(encoded: bytes) -> Policy:
    """The policy of a document from the log. Raises PolicyUnknownError."""
    try:
        document = _decode(encoded)
        profiles = {name: build_profile(name, pack) for name, pack in document.profiles.items()}
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
    return Policy(document, profiles, encoded, hashlib.sha256(encoded).hexdigest())


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


def _versions() -> dict[str, int]:
    return {name: governor.version for name, governor in BY_NAME.items()}


_decode: Final = msgspec.json.Decoder(PolicyDocument).decode
