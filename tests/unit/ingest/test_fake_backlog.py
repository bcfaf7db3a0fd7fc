"""The fake broker's promises, whatever a client does."""

from collections import defaultdict
from typing import Any

from google.protobuf import duration_pb2
from google.pubsub_v1.types import pubsub as types
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ingest.fake_backlog import Backlog

Subscription: Any = types.Subscription.pb()
PubsubMessage: Any = types.PubsubMessage.pb()
RetryPolicy: Any = types.RetryPolicy.pb()

KEYS = ("", "acme", "globex")
indices = st.integers(0, 10_000)


class BacklogMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        config = Subscription(
            name="projects/p/subscriptions/s",
            ack_deadline_seconds=10,
            enable_message_ordering=True,
            retry_policy=RetryPolicy(minimum_backoff=duration_pb2.Duration(seconds=1)),
        )
        self.backlog = Backlog(config, 1_000, lambda *_: False)
        self.now_s = 0.0
        self.published = 0
        self.leases: dict[str, tuple[int, str]] = {}  # by ack id, while we believe it to be ours
        self.expires_s: dict[str, float] = {}
        self.settled: set[int] = set()
        self.delivered: defaultdict[str, list[int]] = defaultdict(list)

    @rule(key=st.sampled_from(KEYS))
    def publish(self, key: str) -> None:
        self.backlog.add(PubsubMessage(data=str(self.published).encode(), ordering_key=key))
        self.published += 1

    @rule(messages=st.integers(1, 5), twice=st.booleans())
    def take(self, messages: int, twice: bool) -> None:
        self.expire()
        taken = self.backlog.take(messages, self.now_s, lambda: twice)
        assert len(taken) <= messages
        for received in taken:
            number, key = int(received.message.data), received.message.ordering_key
            assert number not in self.settled
            assert received.ack_id not in self.leases
            if key:
                out = [other for other, other_key in self.leases.values() if other_key == key]
                fresh = {int(each.message.data) for each in taken if each.message.ordering_key == key}
                # One batch of a key at a time: what is out was taken just now.
                assert set(out) <= fresh
                waiting = self.delivered[key]
                first_time = number not in waiting
                if first_time:
                    assert all(earlier < number for earlier in waiting)
                    waiting.append(number)
            self.leases[received.ack_id] = (number, key)
            self.expires_s[received.ack_id] = self.now_s + 10.0

    @rule(index=indices)
    def acknowledge(self, index: int) -> None:
        self.expire()
        if not self.leases:
            return
        ack_id = sorted(self.leases)[index % len(self.leases)]
        number, _ = self.leases[ack_id]
        self.backlog.acknowledge(ack_id, self.now_s)
        self.settled.add(number)
        self.drop(number)

    @rule(index=indices, deadline_s=st.sampled_from([0, 1, 30]))
    def modify(self, index: int, deadline_s: int) -> None:
        self.expire()
        if not self.leases:
            return
        ack_id = sorted(self.leases)[index % len(self.leases)]
        self.backlog.modify_deadline(ack_id, deadline_s, self.now_s)
        if deadline_s:
            self.expires_s[ack_id] = self.now_s + deadline_s
        else:
            del self.leases[ack_id]

    @rule(ack_id=st.sampled_from(["bogus", "projects/p/subscriptions/s:1:999999"]))
    def acknowledge_what_is_not_leased(self, ack_id: str) -> None:
        self.backlog.acknowledge(ack_id, self.now_s)

    @rule(seconds=st.sampled_from([0.5, 5.0, 60.0]))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    def expire(self) -> None:
        for ack_id in [each for each in self.leases if self.expires_s[each] <= self.now_s]:
            del self.leases[ack_id]

    def drop(self, number: int) -> None:
        for ack_id in [each for each, (other, _) in self.leases.items() if other == number]:
            del self.leases[ack_id]

    @invariant()
    def nothing_is_lost_or_kept_too_long(self) -> None:
        assert self.backlog.size == self.published - len(self.settled)

    def teardown(self) -> None:
        """Whatever happened, a client that acknowledges everything gets everything."""
        for _ in range(2_000):
            if not self.backlog.size:
                break
            self.now_s += 1_000.0
            for received in self.backlog.take(1_000, self.now_s, lambda: False):
                self.settled.add(int(received.message.data))
                self.backlog.acknowledge(received.ack_id, self.now_s)
        assert self.settled == set(range(self.published))


TestBacklog = BacklogMachine.TestCase
TestBacklog.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)
