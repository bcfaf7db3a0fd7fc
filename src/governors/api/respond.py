"""JSON out: views are msgspec structs and become bytes in one step, without pydantic in between."""

from typing import Any, Final

import msgspec
from starlette.responses import Response

JSON: Final = "application/json"
_encode = msgspec.json.Encoder().encode


def json_response(document: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A response with `document` as JSON; times and ids in it are text already, bytes become base64."""
    return Response(_encode(document), status, headers, JSON)
