"""JSON Schemas as others read them."""

import re
from typing import Any


def portable(schema: Any) -> Any:
    """Python's anchors as JSON Schema's regular expressions (ECMA 262) have them."""
    if isinstance(schema, dict):
        return {
            key: re.sub(r"\\Z", "$", value.replace(r"\A", "^")) if key == "pattern" else portable(value)
            for key, value in schema.items()
        }
    return [portable(one) for one in schema] if isinstance(schema, list) else schema
