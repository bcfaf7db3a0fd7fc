"""Nobody gets past here without a right to: who asks is found out before anything of a request is read.

401 where nobody valid asks, 403 where somebody asks for what they may not have. A tenant out of scope is refused
alike whether it exists or not.
"""

import random
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from governors.api.access import Access, AccessTable, Door, Place, Reach
from governors.api.problem import ProblemError, render
from governors.api.rates import RateLimits
from governors.auth.principal import LOCAL, Principal, Role

Authenticate = Callable[[bytes], Coroutine[Any, Any, Principal | None]]
"""`authenticate(token)`: whose token it is, None if it is nobody's. Whoever is known already is not waited for."""

UNKNOWN_ROUTE: Final = "none"
"""What metrics call all paths that do not exist: by their names, anybody could make up series."""
# Signals are charged one by one; admission is asked for every request of a gateway, and answered from memory.
PACED_ELSEWHERE: Final[frozenset[Role]] = frozenset({"ingest", "admit"})
# By its class's name a member costs twenty times as much, which counts where every request passes.
_NOBODY: Final = Reach.NOBODY
_NAMED: Final = Reach.NAMED
_EVERY: Final = Reach.EVERY
_OURS: Final = Door.OURS
_SCHEME: Final = b"bearer "
_CHALLENGE: Final = 'Bearer realm="governors"'


def principal_of(request: Request) -> Principal:
    """Who asks. The guard has put it there, on every route but the open ones."""
    principal: Principal = request.state.principal
    return principal


def require_tenant(principal: Principal, tenant: str) -> None:
    """Raise ProblemError for a tenant that is out of scope."""
    if not principal.sees(tenant):
        raise ProblemError("forbidden", f"the token of {principal.name} is not for tenant {tenant}", field="tenant")


class Doorkeeper:
    """Finds out who asks, and whether they may. `doors` are those that are open, each with who is asked there whose
    token one is; None where nobody is asked: everybody is LOCAL then.
    """

    def __init__(self, access: AccessTable, doors: Mapping[Door, Authenticate | None], rates: RateLimits) -> None:
        self._access = access
        self._doors = doors
        self._authenticate = doors[Door.OURS]
        self._rates = rates

    async def admit(self, scope: Scope) -> None:
        """Say in the scope who asks, once that is known. Raises ProblemError for those who may not go on."""
        place, access, authenticate = self._find(scope)
        if access is not None and access.reach is _NOBODY:
            return
        principal = LOCAL
        if authenticate is not None:
            token = _token_of(scope)
            principal = _known(await authenticate(token) if token else None)
        self._let_in(scope, principal, place, access)

    def admit_at_once(self, scope: Scope) -> bool:
        """The same where nobody has to be waited for; False, and nothing is done, where somebody has to be."""
        place, access, authenticate = self._find(scope)
        if access is not None and access.reach is _NOBODY:
            return True
        principal = LOCAL
        if authenticate is not None:
            token = _token_of(scope)
            known, found = _ask_at_once(authenticate, token) if token else (True, None)
            if not known:
                return False
            principal = _known(found)
        self._let_in(scope, principal, place, access)
        return True

    def _find(self, scope: Scope) -> tuple[Place | None, Access | None, Authenticate | None]:
        """What is asked for, and who knows who may have it."""
        place = self._access.find(scope["path"])
        scope.setdefault("state", {})["route"] = place.route if place is not None else UNKNOWN_ROUTE
        # Starlette answers HEAD where it answers GET.
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        access = place.access.get(method) if place is not None else None
        if access is None or access.door is _OURS:
            return place, access, self._authenticate
        return place, access, self._doors[access.door]

    def _let_in(self, scope: Scope, principal: Principal, place: Place | None, access: Access | None) -> None:
        scope["state"]["principal"] = principal
        if access is None or access.role not in PACED_ELSEWHERE or not principal.may(access.role):
            # Before it is said what they may not have: a token can be refused no faster than it can be answered.
            self._rates.request(principal)
        if place is None or access is None:
            raise _nowhere(place)
        _check(principal, access, place.tenant)


def _token_of(scope: Scope) -> bytes:
    """The token that a request shows, empty where it is none. Raises ProblemError where there is nothing like one."""
    given: list[bytes] = [value for name, value in scope["headers"] if name == b"authorization"]
    if not given:
        raise ProblemError(
            "unauthenticated", "expected Authorization: Bearer …", headers={"WWW-Authenticate": _CHALLENGE}
        )
    if len(given) == 1 and given[0][: len(_SCHEME)].lower() == _SCHEME:
        return given[0][len(_SCHEME) :].strip(b" ")
    return b""


def _ask_at_once(authenticate: Authenticate, token: bytes) -> tuple[bool, Principal | None]:
    """Whether it is known already whose token it is, and whose it is then."""
    coming = authenticate(token)
    try:
        coming.send(None)
    except StopIteration as found:
        return True, found.value
    coming.close()
    return False, None


def _known(principal: Principal | None) -> Principal:
    if principal is None:
        # Why is not said: unknown, expired and malformed look the same to whoever tries tokens.
        headers = {"WWW-Authenticate": f'{_CHALLENGE}, error="invalid_token"'}
        raise ProblemError("unauthenticated", "the token is not valid", field="Authorization", headers=headers)
    return principal


class Guard:
    """ASGI middleware: nobody gets past it whom the doorkeeper does not let in."""

    def __init__(self, app: ASGIApp, doorkeeper: Doorkeeper, rng: random.Random) -> None:
        self._app = app
        self._doorkeeper = doorkeeper
        self._rng = rng

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                await self._doorkeeper.admit(scope)
            except ProblemError as refused:
                await render(refused, self._rng)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _nowhere(place: Place | None) -> ProblemError:
    """Said here and not by the router, so that a route that nobody put into the table is out of everybody's reach."""
    if place is not None:
        headers = {"Allow": ", ".join(sorted(place.access))}
        return ProblemError("method-not-allowed", "this route takes other methods", headers=headers)
    return ProblemError("not-found", "there is no such route")


def _check(principal: Principal, access: Access, tenant: str | None) -> None:
    if not principal.may(access.role):
        headers = {"WWW-Authenticate": f'{_CHALLENGE}, error="insufficient_scope", scope="{access.role}"'}
        detail = f"the token of {principal.name} lacks the role {access.role}"
        raise ProblemError("forbidden", detail, headers=headers)
    if access.reach is _EVERY and principal.tenants is not None:
        detail = f"the token of {principal.name} is limited to some tenants, and this concerns all of them"
        raise ProblemError("forbidden", detail)
    if access.reach is _NAMED and tenant is not None:
        require_tenant(principal, tenant)
