"""`GET /docs`: the API's description for people. The only HTML here, so the only page that others could abuse.

Its script comes from elsewhere, and an operator may give it a token: it can speak to this service and to nobody else.
"""

import base64
import hashlib
import re
from typing import Final

from fastapi.openapi.docs import get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

_CDN: Final = "https://cdn.jsdelivr.net/npm/swagger-ui-dist@5/"
_INLINE = re.compile(rb"<script>(.*?)</script>", re.DOTALL)


def docs_route(title: str) -> Route:
    """The page's route."""
    # Without an icon: the library's own would tell a third party who reads this.
    page = bytes(get_swagger_ui_html(openapi_url="/openapi.json", title=title, swagger_favicon_url="data:,").body)
    headers = {"Content-Security-Policy": _policy(page), "Referrer-Policy": "no-referrer"}

    async def docs(_request: Request) -> Response:
        return HTMLResponse(page, headers=headers)

    return Route("/docs", docs, include_in_schema=False)


def _policy(page: bytes) -> str:
    hashes = [base64.b64encode(hashlib.sha256(script).digest()).decode() for script in _INLINE.findall(page)]
    scripts = " ".join([_CDN, *(f"'sha256-{digest}'" for digest in hashes)])
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {scripts}",
            f"style-src {_CDN} 'unsafe-inline'",  # Swagger writes its styles into the page
            "img-src 'self' data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    )
