"""How the service is: probes for the platform, metrics for Prometheus, the supervision tree for people."""

from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import Response

from governors.api.documents import answers
from governors.api.problem import ProblemError
from governors.api.respond import json_response
from governors.api.service import ClusterView, Health, Probed
from governors.supervision.report import TreeNode
from governors.telemetry.metrics import Metrics

RETRY_S: Final = 1.0
READY: Final = {
    "schema": {
        "type": "object",
        "properties": {"ready": {"const": True}, "warnings": {"type": "array", "items": {"type": "string"}}},
    },
    "example": {"ready": True, "warnings": []},
}


def health_router(service: Probed, metrics: Metrics) -> APIRouter:
    """The routes that ask nothing of tenants."""
    router = APIRouter(tags=["health"])

    @router.get("/healthz", responses=answers(Health, 503), response_class=Response)
    async def healthz() -> Any:
        """200 while the event loop turns (it answers) and no permanent child is down for good."""
        health = service.health()
        if health.down:
            detail = f"down for good: {', '.join(health.down)}"
            raise ProblemError("not-healthy", detail, members={"version": health.version, "down": health.down})
        return json_response(health)

    @router.get("/readyz", responses=answers(READY, 503), response_class=Response)
    async def readyz() -> Any:
        """200 when signals are taken, with what somebody should look at nevertheless; else 503 with `missing`, the list
        of what keeps it from being ready.
        """
        missing = service.missing()
        if missing:
            detail = f"missing: {', '.join(missing)}"
            raise ProblemError("not-ready", detail, retry_after_s=RETRY_S, members={"ready": False, "missing": missing})
        return json_response({"ready": True, "warnings": service.health().warnings})

    @router.get(
        "/metrics",
        responses={200: {"description": "The metrics.", "content": {"text/plain": {"schema": {"type": "string"}}}}},
        response_class=Response,
    )
    async def read_metrics(request: Request) -> Any:
        """Prometheus' text format, or OpenMetrics when `Accept` asks for it."""
        body, content_type = metrics.render(request.headers.get("accept", ""))
        return Response(body, headers={"Content-Type": content_type})

    @router.get("/v1/tree", responses=answers(TreeNode), response_class=Response)
    async def read_tree() -> Any:
        """The supervision tree: each child, its state, restarts and last error."""
        return json_response(service.tree())

    @router.get("/v1/cluster", responses=answers(ClusterView), response_class=Response)
    async def read_cluster() -> Any:
        """The workers that were heard of, as the one that is asked knows them, and who has which partition."""
        return json_response(service.cluster())

    @router.post("/v1/cluster/drain", responses=answers(ClusterView, 404), response_class=Response)
    async def drain() -> Any:
        """Have this worker hand over all its partitions, one after the other as others stand by, and take no more."""
        return json_response(service.drain(leaving=True))

    @router.delete("/v1/cluster/drain", responses=answers(ClusterView, 404), response_class=Response)
    async def take_part() -> Any:
        """Have this worker take partitions again."""
        return json_response(service.drain(leaving=False))

    return router
