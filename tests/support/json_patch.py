"""JSON patches (RFC 6902: add, remove, replace, test) and merge patches (RFC 7396), as an API server applies them."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any


class PatchFailedError(Exception):
    """An operation cannot be done, or a test says no: nothing is changed."""


def apply_patch(document: Any, patch: Sequence[Mapping[str, Any]]) -> Any:
    """The document that comes of it. Raises PatchFailedError."""
    document = copy.deepcopy(document)
    for step in patch:
        where = [part.replace("~1", "/").replace("~0", "~") for part in step["path"].split("/")[1:]]
        parent = document
        for part in where[:-1]:
            parent = _child(parent, part, step)
        match step["op"], parent:
            case "test", _:
                if _child(parent, where[-1], step) != step["value"]:
                    raise PatchFailedError(f"testing value {step['path']} failed")
            case "add", dict():
                parent[where[-1]] = copy.deepcopy(step["value"])
            case "add", list():
                at = len(parent) if where[-1] == "-" else int(where[-1])
                if not 0 <= at <= len(parent):
                    raise PatchFailedError(f"index {at} of {step['path']} is out of bounds")
                parent.insert(at, copy.deepcopy(step["value"]))
            case "replace", dict() | list():
                _child(parent, where[-1], step)
                parent[int(where[-1]) if isinstance(parent, list) else where[-1]] = copy.deepcopy(step["value"])
            case "remove", dict() | list():
                _child(parent, where[-1], step)
                del parent[int(where[-1]) if isinstance(parent, list) else where[-1]]
            case _:
                raise PatchFailedError(f"{step['op']} of {step['path']} is not possible")
    return document


def _child(parent: Any, name: str, step: Mapping[str, Any]) -> Any:
    try:
        return parent[int(name)] if isinstance(parent, list) else parent[name]
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise PatchFailedError(f"{step['op']} operation does not apply: {step['path']} is missing") from error


def merge(document: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    merged = copy.deepcopy(document) if isinstance(document, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge(merged.get(name), value)
    return merged
