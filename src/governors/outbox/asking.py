"""One HTTP request to somebody outside, at an address that was looked at. Redirects are not followed: what is sent goes
where the configuration says, and nowhere that an answer says.
"""

from typing import Final

import httpx

from governors.outbox.addresses import AddressRefusedError, AddressUnknownError, resolve
from governors.outbox.answers import Heard
from governors.outbox.executors import Refused, TryAgain

CONNECT_S: Final = 5.0


async def ask(
    method: str, url: httpx.URL, headers: dict[str, str], body: bytes, *, private: bool, bytes_max: int
) -> Heard | Refused | TryAgain:
    """What was answered, of its body `bytes_max` bytes at the most; or why nothing was."""
    try:
        return await _send(method, url, headers, body, private=private, bytes_max=bytes_max)
    except AddressRefusedError as error:
        return Refused(str(error))
    except AddressUnknownError as error:
        return TryAgain(str(error), maybe=False)
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        return TryAgain(f"cannot be reached: {_said(error)}", maybe=False)
    except httpx.HTTPError as error:
        return TryAgain(f"no answer: {_said(error)}")


async def _send(
    method: str, url: httpx.URL, headers: dict[str, str], body: bytes, *, private: bool, bytes_max: int
) -> Heard:
    """A connection of its own for each: orders are few, and a name may mean another machine the next time."""
    port = url.port or (443 if url.scheme == "https" else 80)
    address = await resolve(url.host, port, private=private)
    there = url.copy_with(host=address)
    # The name, where the address stands in the URL: for the request's Host, and for the certificate. Nothing packed,
    # for it is counted as it comes.
    headers = {"user-agent": "governors", "accept-encoding": "identity", **headers, "host": url.netloc.decode()}
    timeout = httpx.Timeout(None, connect=CONNECT_S)  # the outbox ends the attempt
    async with httpx.AsyncClient(timeout=timeout, follow_redirects=False, trust_env=False) as client:
        request = client.build_request(
            method, there, headers=headers, content=body, extensions={"sni_hostname": url.host}
        )
        answer = await client.send(request, stream=True)
        read = b""
        try:
            async for chunk in answer.aiter_raw():
                read += chunk
                if len(read) > bytes_max:
                    break
        finally:
            await answer.aclose()
        return Heard(answer.status_code, read[:bytes_max], answer.headers.get("retry-after"))


def _said(error: httpx.HTTPError) -> str:
    return str(error) or type(error).__name__
