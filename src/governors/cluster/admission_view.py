"""A view of another worker's admission: how it is told, page by page, and how it answers. Pure.

Who has a partition's log decides what holds for its tenants, and tells the others what changed since they last heard
(`tell`). They answer from that (`AdmissionView`) and say how old it is. Times named `now_s` and `asked_s` are those of
the reader's monotonic clock alone; nobody's clock is compared with anybody else's.
"""

from collections.abc import Iterable, Mapping
from typing import Final, Literal, NamedTuple

import msgspec
from msgspec import Struct

from governors.admission import Admission, Admitted, Changes, Standing, Viewed, refuse_stale
from governors.machines.governor import AdmitRule

VERSION: Final = 1
WEIGHT_MAX: Final = 2_000
"""Of one answer, over all its pages: a tenant weighs 1, and 1 more for each of its rules. Nobody else waits for longer
than it takes to tell or to install so many, some milliseconds; some 60 KB, and 1 MB where all names are as long as they
may be."""
ANSWER_BYTES_MAX: Final = 4 * 1024 * 1024
"""Nobody reads more of an answer."""

Fails = Literal["open", "closed"]
"""What becomes of requests when it is not known what holds: all pass, or none does."""


class Have(NamedTuple):
    """What a reader has of a partition: version `version` of the source's run `run`; 0 of "" where it has nothing."""

    partition: int
    run: str
    version: int


class Source(NamedTuple):
    """The admission of a partition whose log this worker has, since `epoch`. Each `run` numbers its versions itself."""

    run: str
    epoch: int
    admission: Admission


class Restricted(Struct, frozen=True, omit_defaults=True):
    """A tenant and what holds for it, as `governors.admission.Standing` has it."""

    tenant: str
    not_active: str | None = None
    rules: dict[str, AdmitRule] = {}


class Page(Struct, frozen=True):
    """What changed in a partition after version `since` and up to `version`, of that epoch and run. Each tenant is in
    one of the lists: with nothing that holds for it, with something, or known no more. `since` is 0 where everything
    is told anew; with `more`, the reader asks again at once.
    """

    partition: int
    epoch: int
    run: str
    since: int
    version: int
    more: bool
    unrestricted: list[str]
    restricted: list[Restricted]
    forgotten: list[str]


class Answer(Struct, frozen=True):
    """A page for each partition that was asked for and is there; none for one whose log the answerer does not have."""

    pages: list[Page]
    v: int = VERSION


class AnswerInvalidError(ValueError):
    """What came is no answer that this program can read."""


_encode = msgspec.json.Encoder(order="deterministic").encode
_decode = msgspec.json.Decoder(Answer).decode


def tell(haves: Iterable[tuple[int, str, int]], sources: Mapping[int, Source], weight_max: int = WEIGHT_MAX) -> bytes:
    """The answer to a reader that has this (each as `Have`), of the partitions that are here. What is left out for its
    weight, the reader asks for again.
    """
    pages = []
    for partition, run, version in haves:
        source = sources.get(partition)
        if source is None:
            continue
        changes = source.admission.changes(version if run == source.run else 0, weight_max)
        weight_max -= sum(1 if standing is None else 1 + len(standing.rules) for _, standing in changes.tenants)
        pages.append(_page(partition, source, changes))
    return _encode(Answer(pages))


def _page(partition: int, source: Source, changes: Changes) -> Page:
    unrestricted, restricted, forgotten = [], [], []
    for tenant, standing in changes.tenants:
        if standing is None:
            forgotten.append(tenant)
        elif standing.not_active is None and not standing.rules:
            unrestricted.append(tenant)
        else:
            restricted.append(Restricted(tenant, standing.not_active, dict(standing.rules)))
    since, version, more, _ = changes
    return Page(partition, source.epoch, source.run, since, version, more, unrestricted, restricted, forgotten)


def read_answer(data: bytes) -> list[Page]:
    """The pages of an answer. Raises AnswerInvalidError."""
    if len(data) > ANSWER_BYTES_MAX:
        raise AnswerInvalidError(f"{len(data)} bytes; expected at most {ANSWER_BYTES_MAX}")
    try:
        answer = _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise AnswerInvalidError(str(error)) from error
    if answer.v != VERSION:
        raise AnswerInvalidError(f"version {answer.v}; expected {VERSION}")
    return answer.pages


class AdmissionView:
    """What was told of one partition's tenants, and answers by it. It ages from when the newest answer after which
    nothing was left to be told had been asked for. Past `limit_s`, and before that was ever so, it fails as `fails`
    says.

    `hash_key` as in `Admission`, and the same as the source's.
    """

    def __init__(self, partition: int, *, limit_s: float, fails: Fails, hash_key: bytes = b"") -> None:
        self.partition = partition
        self._limit_s = limit_s
        self._fails = fails
        self._admission = Admission(hash_key=hash_key)
        self._epoch = 0
        self._run = ""
        self._version = 0
        # While everything is told anew: the tenants that were. The others are known until that is over.
        self._told: set[str] | None = None
        self._true_s: float | None = None
        self._refusals = 0

    @property
    def have(self) -> Have:
        """From where to ask on."""
        return Have(self.partition, self._run, self._version)

    def install(self, page: Page, asked_s: float) -> bool:
        """Take over what a page tells that was asked for at `asked_s`; whether there is more to be asked for at once.

        A page of an earlier epoch, of somebody who had the log once, and one that does not follow on what is here, tell
        nothing.
        """
        if page.partition != self.partition or page.epoch < self._epoch:
            return False
        if page.since == 0:
            self._told = set()
        elif (page.run, page.since) != (self._run, self._version):
            return False
        for tenant in page.unrestricted:
            self._become(tenant, _FREE)
        for one in page.restricted:
            self._become(one.tenant, Standing(one.not_active, one.rules))
        for tenant in page.forgotten:
            self._become(tenant, None)
        self._epoch, self._run, self._version = page.epoch, page.run, page.version
        if page.more:
            return True
        if self._told is not None:
            for tenant in self._admission.known() - self._told:
                self._admission.forget(tenant)
            self._told = None
        self._true_s = asked_s
        return False

    def share_among(self, workers: int) -> None:
        """Of each rate let this worker's part pass, of so many that answer."""
        self._admission.share_among(workers)

    def age_s(self, now_s: float) -> float | None:
        """For how long it may have been otherwise; None where it was never all told."""
        return None if self._true_s is None else max(0.0, now_s - self._true_s)

    def admit(self, tenant: str, klass: str, user: str | None, cost: int, now_us: int, now_s: float) -> Viewed:
        """Answer for one request, as `Admission.admit` does."""
        age_s = self.age_s(now_s)
        age_ms = None if age_s is None else int(age_s * 1_000)
        if age_s is not None and age_s <= self._limit_s:
            return Viewed(self._admission.admit(tenant, klass, user, cost, now_us), age_ms)
        if self._fails == "open":
            return Viewed(_FAILED_OPEN, age_ms)
        self._refusals += 1
        return Viewed(refuse_stale(self._refusals), age_ms)

    def standing(self, tenant: str) -> Standing | None:
        """What was told of a tenant; None where it is not known."""
        return self._admission.standing(tenant)

    def _become(self, tenant: str, standing: Standing | None) -> None:
        if self._told is not None:
            (self._told.discard if standing is None else self._told.add)(tenant)
        self._admission.become(tenant, standing)


_FREE: Final = Standing(None, {})
_FAILED_OPEN: Final = Admitted("view_stale")
