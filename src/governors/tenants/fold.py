"""What the service makes of the receipts in its log, besides the states: the window by which repeated signals are told
from new ones. A start rebuilds it from receipts, or goes on from a snapshot's.
"""

from typing import Final

import msgspec
from msgspec import msgpack

from governors.machines.catalog import RUNTIME
from governors.tenants.dedup import DedupWindow, WindowState, recall
from governors.tenants.policy import POLICY_LOADED
from ledger.format.receipt import Receipt

_encode: Final = msgpack.Encoder().encode
_decode: Final = msgpack.Decoder(WindowState).decode
# Until the log's first receipt, which is about the policy and says how many.
_WINDOW_IDS: Final = 131_072


class WindowFold:
    """The window as of some receipt: a `ledger.snapshots.AppFold`."""

    def __init__(self) -> None:
        self.window: Final = DedupWindow(_WINDOW_IDS)

    def on_receipt(self, index: int, receipt: Receipt) -> None:
        """As the window was when the receipt was written."""
        recall(self.window, index, receipt)
        if receipt.fsm.machine == RUNTIME and receipt.fsm.event == POLICY_LOADED:
            # At the same receipt as then: what has been forgotten depends on it.
            self.window.resize(int(receipt.evidence["window_ids"]), receipt.ts_us)

    def encode(self) -> bytes:
        """The window's bytes for a snapshot."""
        return _encode(self.window.state())

    def decode(self, data: bytes) -> None:
        """Take a snapshot's window. Raises ValueError."""
        try:
            self.window.restore(_decode(data))
        except (msgspec.DecodeError, IndexError) as error:
            raise ValueError(f"the window of a snapshot cannot be read: {error}") from error
