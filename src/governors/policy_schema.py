"""The JSON Schema of policy files, made from the types that read them."""

from typing import Any

import msgspec
import orjson

from governors.json_schema import portable
from governors.machines.catalog import GOVERNORS
from governors.policies import PolicyText

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def policy_schema() -> str:
    """The document, as text that ends with a newline."""
    types = [PolicyText, *(governor.policy for governor in GOVERNORS)]
    (root, *policies), definitions = msgspec.json.schema_components(types, ref_template="#/$defs/{name}")
    names = [governor.name for governor in GOVERNORS]
    pack: dict[str, Any] = {
        "type": "object",
        "properties": dict(zip(names, policies, strict=True)),
        "additionalProperties": False,
    }
    sections = definitions["PolicyText"]["properties"]
    for section in ("profiles", "tenants"):
        sections[section]["additionalProperties"] = pack
    definitions["WindowText"]["properties"]["governors"]["items"] = {"enum": names}
    document = {"$schema": DIALECT, "title": "Policies of governors", **root, "$defs": portable(definitions)}
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode()
