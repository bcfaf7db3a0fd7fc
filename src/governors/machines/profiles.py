"""Profiles: named packs of policies, one for each governor, with the digest that receipts carry."""

import hashlib
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import orjson
from msgspec import Struct

from governors.machines.catalog import BY_NAME, GOVERNORS

PROFILE_NAMES: Final = ("standard", "premium", "enterprise")
PolicyOverrides = Mapping[str, Mapping[str, Any]]


class ProfileError(ValueError):
    """A profile that cannot be: `key` is the path of what is wrong in the configuration."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(f"{key}: {message}")
        self.key = key
        self.message = message


class Profile(Struct, frozen=True):
    """One policy for each governor, by its name. `digest` is the SHA-256 (hex) of the policies as canonical JSON."""

    name: str
    policies: dict[str, Any]
    digest: str


def build_profiles(overrides: Mapping[str, PolicyOverrides] | None = None) -> dict[str, Profile]:
    """The standard profiles and whatever the configuration adds or changes: profile -> governor -> key -> value.

    Raises ProfileError naming the key for an unknown governor or policy key, or a value that cannot be.
    """
    packs: dict[str, PolicyOverrides] = {name: {} for name in PROFILE_NAMES}
    packs.update(overrides or {})
    return {name: build_profile(name, pack) for name, pack in packs.items()}


def build_profile(name: str, pack: PolicyOverrides) -> Profile:
    """One profile; governors that the pack does not name have their defaults."""
    for governor_name in pack:
        if governor_name not in BY_NAME:
            raise ProfileError(f"profiles.{name}.{governor_name}", f"expected one of {', '.join(BY_NAME)}")
    policies: dict[str, Any] = {}
    for governor in GOVERNORS:
        try:
            policies[governor.name] = msgspec.convert(dict(pack.get(governor.name, {})), governor.policy)
        except msgspec.ValidationError as error:
            raise ProfileError(f"profiles.{name}.{governor.name}", str(error)) from error
    plain = msgspec.to_builtins(policies)
    digest = hashlib.sha256(orjson.dumps(plain, option=orjson.OPT_SORT_KEYS)).hexdigest()
    return Profile(name=name, policies=policies, digest=digest)
