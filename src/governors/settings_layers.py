"""Layers of configuration: defaults, one file, the environment, options. Pure: mappings in, values or problems out.

A schema is a Struct of sections (Structs) and leaves; every leaf has a dotted key (`http.port`). Each layer gives
values for leaves, a later layer wins leaf by leaf, and whatever is wrong is collected, so that one start shows all of
it.
"""

import difflib
import math
import re
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, Union, get_args, get_origin

import msgspec
from msgspec import Meta, Struct

ENV_PREFIX: Final = "GOVERNORS_"
MASK: Final = "********"
# Kubernetes gives every container variables for the services around it: a Service named `governors` or `governors-http`
# comes as GOVERNORS_SERVICE_HOST, GOVERNORS_HTTP_PORT=tcp://…. They are not ours, and no key of ours looks like one.
_SERVICE_LINK: Final = re.compile(
    r"_SERVICE_HOST$|_SERVICE_PORT(_\w+)?$|_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$"
)
# Read by the commands that talk to a running service; a shell that has it set must be able to start one too.
NOT_SETTINGS: Final = frozenset({"GOVERNORS_URL", "GOVERNORS_TOKEN"})
_SERVICE_URL: Final = re.compile(r"(tcp|udp|sctp)://")


class Secret(str):
    """A value that is never printed, and that may only come from the environment: files are committed and command
    lines are seen by every process of the machine.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"Secret({MASK!r})"


class Problem(NamedTuple):
    """One thing that stops the start. `value` is what was given, as it is shown; empty where nothing was."""

    key: str
    value: str
    origin: str
    expected: str

    def __str__(self) -> str:
        given = f" = {self.value}" if self.value else ""
        return f"{self.key}{given} ({self.origin}): {self.expected}"


class Leaf(NamedTuple):
    """One key that can be set. `default` is `msgspec.NODEFAULT` where it must be."""

    kind: Any
    default: Any

    @property
    def secret(self) -> bool:
        return Secret in (self.kind, *get_args(self.kind))


class Given(NamedTuple):
    """A value from one layer. `text` values (the environment's, an option's) may still have to be read as a number."""

    value: Any
    origin: str
    text: bool = False


def section_of(kind: Any) -> type[Struct] | None:
    """The Struct behind `Section` or `Section | None`; None for a leaf's type."""
    candidates = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    return next((one for one in candidates if isinstance(one, type) and issubclass(one, Struct)), None)


def leaves_of(schema: type[Struct], prefix: str = "") -> dict[str, Leaf]:
    """Every key of `schema`, in its own order."""
    leaves: dict[str, Leaf] = {}
    for field in msgspec.structs.fields(schema):
        key = prefix + field.name
        if (section := section_of(field.type)) is not None:
            leaves |= leaves_of(section, f"{key}.")
        else:
            default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
            leaves[key] = Leaf(field.type, default)
    return leaves


def from_mapping(
    document: Mapping[Any, Any], leaves: Mapping[str, Leaf], origin: str
) -> tuple[dict[str, Given], list[Problem]]:
    """A nested mapping (a YAML document) as values by dotted key."""
    sections = sections_of(leaves)
    given: dict[str, Given] = {}
    problems: list[Problem] = []

    def walk(mapping: Mapping[Any, Any], prefix: str) -> None:
        for name, value in mapping.items():
            key = f"{prefix}{name}"
            if key in leaves:
                if leaves[key].secret:
                    problems.append(Problem(key, MASK, origin, f"a secret may only come from {env_name(key)}"))
                else:
                    given[key] = Given(value, origin)
            elif key not in sections:
                problems.append(unknown_key(key, origin, leaves))
            elif isinstance(value, Mapping):
                walk(value, f"{key}.")
            elif value is not None:  # a section whose keys are all commented out reads as null, and gives nothing
                problems.append(Problem(key, shown(value), origin, "expected a section with keys of its own"))

    walk(document, "")
    return given, problems


def from_environment(env: Mapping[str, str], leaves: Mapping[str, Leaf]) -> tuple[dict[str, Given], list[Problem]]:
    """The `GOVERNORS_…` variables as values by dotted key; a double underscore stands for the dot. A list is written
    with commas between, a list of sections as JSON.
    """
    names = {env_name(key): key for key in leaves}
    given: dict[str, Given] = {}
    problems: list[Problem] = []
    for name in sorted(name for name in env if name.startswith(ENV_PREFIX)):
        value = env[name]
        if (key := names.get(name)) is not None:
            given[key] = Given(value, f"env {name}", text=True)
        elif name not in NOT_SETTINGS and not is_service_link(name, value):
            close = difflib.get_close_matches(name, names, n=1)
            problems.append(Problem(name, "", "env", f"unknown variable{_did_you_mean(close)}"))
    return given, problems


def from_options(options: Mapping[str, Any], leaves: Mapping[str, Leaf]) -> tuple[dict[str, Given], list[Problem]]:
    """Command line options by dotted key; None is an option that was not given."""
    given: dict[str, Given] = {}
    problems: list[Problem] = []
    for key, value in options.items():
        if value is None:
            continue
        if key not in leaves:
            problems.append(unknown_key(key, "option", leaves))
        elif leaves[key].secret:
            problems.append(Problem(key, MASK, "option", f"a secret may only come from {env_name(key)}"))
        else:
            plain = str(value) if isinstance(value, Path) else value
            given[key] = Given(plain, "option", text=isinstance(plain, str))
    return given, problems


def read_leaf(key: str, leaf: Leaf, given: Given) -> tuple[Any, Problem | None]:
    """The value in the leaf's own type, or what is wrong with it."""
    value, why = None, ""
    try:
        if given.text:
            value = _from_text(given.value, leaf.kind)
        else:
            value = msgspec.convert(given.value, leaf.kind, dec_hook=_own_types)
        readable = not isinstance(value, float) or math.isfinite(value)
    except msgspec.DecodeError as error:
        readable = False
        # Of a list of small sections it takes more to say which one is wrong, and how.
        why = f": {error}" if _lists_sections(leaf.kind) else ""
    if readable:
        return value, None
    printed = MASK if leaf.secret else shown(given.value)
    return None, Problem(key, printed, given.origin, f"expected {describe(leaf.kind)}{why}")


def _lists_sections(kind: Any) -> bool:
    return get_origin(kind) is tuple and section_of(get_args(kind)[0]) is not None


def _from_text(text: str, kind: Any) -> Any:
    if text == "" and type(None) in get_args(kind):
        return None
    if _lists_sections(kind) and text:
        return msgspec.json.decode(text, type=kind, dec_hook=_own_types)
    if get_origin(kind) is tuple:
        return msgspec.convert([item.strip() for item in text.split(",") if item.strip()], kind, dec_hook=_own_types)
    try:
        return msgspec.convert(text, kind, dec_hook=_own_types)
    except msgspec.ValidationError:
        return msgspec.convert(text, kind, strict=False, dec_hook=_own_types)


def _own_types(kind: type, value: Any) -> Any:
    if kind in (Path, Secret) and isinstance(value, str) and value:
        return kind(value)
    raise ValueError("expected text")


def build(schema: type[Struct], values: Mapping[str, Any], prefix: str = "") -> Any:
    """The Struct from its leaves' values. An optional section is None unless one of its keys has a value of its own.

    Raises ValueError where the Struct itself refuses a combination.
    """
    fields: dict[str, Any] = {}
    for field in msgspec.structs.fields(schema):
        key = prefix + field.name
        if (section := section_of(field.type)) is None:
            if key in values:
                fields[field.name] = values[key]
        elif section is field.type or any(name.startswith(f"{key}.") for name in values):
            fields[field.name] = build(section, values, f"{key}.")
    return schema(**fields)


def sections_of(leaves: Iterable[str]) -> set[str]:
    """Every dotted prefix of the keys: `a.b.c` lies in `a` and `a.b`."""
    return {key[:dot] for key in leaves for dot, char in enumerate(key) if char == "."}


def env_name(key: str) -> str:
    """`http.port` -> `GOVERNORS_HTTP__PORT`."""
    return ENV_PREFIX + key.upper().replace(".", "__")


def is_service_link(name: str, value: str) -> bool:
    """Whether Kubernetes put the variable there for a Service, and not somebody for us."""
    if name.endswith("_PORT"):
        return _SERVICE_URL.match(value) is not None or name.endswith("_SERVICE_PORT")
    return _SERVICE_LINK.search(name) is not None


def unknown_key(key: str, origin: str, leaves: Iterable[str]) -> Problem:
    """The problem of a key that no schema has, with the one that was perhaps meant."""
    names = [*leaves]
    close = difflib.get_close_matches(key, [*names, *sections_of(names)], n=1)
    return Problem(key, "", origin, f"unknown key{_did_you_mean(close)}")


def _did_you_mean(close: list[str]) -> str:
    return f", did you mean {close[0]}?" if close else ""


def shown(value: Any) -> str:
    """A value as a problem shows it: short, and never a page."""
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def describe(kind: Any) -> str:
    """What a leaf takes, in words: `an integer from 0 to 65535`."""
    if get_origin(kind) is Annotated:
        base, *notes = get_args(kind)
        return " ".join([describe(base), *(_bounds(note) for note in notes if isinstance(note, Meta))]).strip()
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(describe(one) for one in get_args(kind))
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(str(word) for word in get_args(kind))
    if get_origin(kind) is tuple:
        return f"a list, each {describe(get_args(kind)[0])}"
    if (section := section_of(kind)) is not None:
        return "of " + ", ".join(section.__struct_fields__)
    words = {int: "an integer", float: "a number", bool: "true or false", type(None): "null", Path: "a path"}
    return words.get(kind, "text")


def _bounds(meta: Meta) -> str:
    low = meta.ge if meta.ge is not None else meta.gt
    parts = []
    if low is not None and meta.le is not None:
        parts.append(f"from {low:,} to {meta.le:,}" if meta.ge is not None else f"over {low:,} and up to {meta.le:,}")
    elif low is not None:
        parts.append(f"of at least {low:,}" if meta.ge is not None else f"over {low:,}")
    elif meta.le is not None:
        parts.append(f"of at most {meta.le:,}")
    if meta.pattern is not None:
        parts.append(f"matching {meta.pattern}")
    elif meta.min_length is not None:
        parts.append("that is not empty")
    return ", ".join(parts)
