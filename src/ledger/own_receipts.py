"""Receipts that a log has of itself: they stand in the chain of a tenant of its own, and decide nothing."""

from ledger.draft import Draft
from ledger.format.chain import LEDGER_NAME
from ledger.format.receipt import Fsm


def own_draft(event_id: str, fsm: Fsm, rule: str, evidence: dict[str, int | str], now_us: int) -> Draft:
    """A statement of the log. `event_id` says which one."""
    return Draft(
        tenant=LEDGER_NAME,
        event_id=event_id,
        source="",
        observed_us=now_us,
        ts_us=now_us,
        outcome="decided",
        decision="none",
        rule=rule,
        evidence=evidence,
        fsm=fsm,
        policy_digest="",
        actions=(),
        payload=b"",
    )
