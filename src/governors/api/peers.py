"""What workers ask of each other."""

from collections.abc import Sequence
from typing import Annotated, Any, Final, Protocol

from fastapi import APIRouter, Query
from pydantic import StringConstraints
from starlette.responses import Response

from governors.api.documents import answers
from governors.api.respond import JSON

ADMISSION_PATH: Final = "/v1/cluster/admission"
HAVE_PATTERN: Final = r"^[0-9]{1,4}:[0-9a-f]{0,32}:[0-9]{1,15}$"
HAVES_MAX: Final = 200
"""In one request: its line and headers have a limit too."""
_ANSWER: Final = {
    "schema": {
        "type": "object",
        "properties": {"v": {"const": 1}, "pages": {"type": "array", "items": {"type": "object"}}},
    },
    "example": {
        "pages": [
            {
                "partition": 3,
                "epoch": 7,
                "run": "1b7e4d905f0c9a21",
                "since": 120,
                "version": 122,
                "more": False,
                "unrestricted": ["globex"],
                "restricted": [{"tenant": "acme", "not_active": "suspended"}],
                "forgotten": [],
            }
        ],
        "v": 1,
    },
}

Have = Annotated[str, StringConstraints(pattern=HAVE_PATTERN)]


class Peers(Protocol):
    """What a worker tells the others."""

    def admission(self, haves: Sequence[tuple[int, str, int]]) -> bytes:
        """What changed in the admission of partitions, as JSON: for each its number, and the run and version that the
        asker has. Those whose log this worker does not have, or of which it may not answer now, are left out.
        """
        ...


def peers_router(peers: Peers) -> APIRouter:
    """The routes of other workers."""
    router = APIRouter(tags=["cluster"])

    @router.get(ADMISSION_PATH, responses=answers(_ANSWER, 422), response_class=Response)
    async def get_admission(
        have: Annotated[
            Sequence[Have],
            Query(
                max_length=HAVES_MAX,
                description="`partition:run:version`, what the asker has; `partition::0` where that is nothing. "
                "Without any it only shows that somebody answers.",
                examples=["3:1b7e4d905f0c9a21:120"],
            ),
        ] = (),
    ) -> Any:
        """What changed in admission, for workers that answer from a view of it."""
        return Response(peers.admission([_read(one) for one in have]), media_type=JSON)

    return router


def _read(have: str) -> tuple[int, str, int]:
    partition, run, version = have.split(":")
    return int(partition), run, int(version)
