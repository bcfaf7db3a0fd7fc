"""JSON Schemas as others read them."""

import re
from typing import Any


def portable(schema: Any) -> Any:
    """Python's anchors as JSON Schema's regular expressions (ECMA 262) have them, and whole numbers written as such:
    `typing` keeps one of two annotations that compare equal, so 0 may have become 0.0 by what was imported first.
    """
    if isinstance(schema, dict):
        return {
            key: re.sub(r"\\Z", "$", value.replace(r"\A", "^")) if key == "pattern" else portable(value)
            for key, value in schema.items()
        }
    if isinstance(schema, list):
        return [portable(one) for one in schema]
    return int(schema) if isinstance(schema, float) and schema.is_integer() else schema
