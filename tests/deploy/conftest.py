"""What is deployed, overlay by overlay."""

import pytest
from support.manifests import OVERLAYS, Manifests, overlay


@pytest.fixture(scope="session", params=OVERLAYS)
def manifests(request: pytest.FixtureRequest) -> Manifests:
    return overlay(request.param)
