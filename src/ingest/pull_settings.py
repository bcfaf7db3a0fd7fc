"""How one subscription is pulled."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PullSettings:
    """Bounds of a pull loop; within them it adapts to what the broker has and the handler takes. Times are seconds."""

    pulls_in_flight: int = 4
    """The most pulls waiting at the broker at once. One to four are fastest; more only compete for this process's
    core."""

    messages_per_pull: int = 1_000
    """The most to ask for in one pull; the service gives at most 1,000."""

    messages_max: int = 20_000
    """The most messages held at once, pulled and not yet acknowledged. Acknowledgements follow commits, which may be
    4 s apart: a tenth of this a second still flows when a commit takes 10 s."""

    backlog_max: int = 2_000
    """No pull starts while as many messages wait to be decided; a tenth of a second's work."""

    bytes_max: int = 64 * 1024 * 1024
    """No pull starts while payloads of this size are held. Pulls in flight may pass it once, as far as their messages
    are larger than those seen lately."""

    ack_deadline_s: int = 10
    """The subscription's own deadline, and what every extension asks for. Leases are extended from their half on, so
    this bounds only how late the messages of a worker come that was killed; the least that the service takes."""

    held_s_max: float = 600.0
    """A handler that keeps a batch longer is cancelled and the batch is delivered again."""

    attempts_max: int = 3
    """A message on which the handler fails so many times by itself, while it handles others, is put aside."""

    pull_timeout_s: float = 3.0
    """The deadline of a pull, at least 2. An empty one is answered about a second before it, so that nothing is on
    its way to us when we stop listening. Short, because a broker may go on serving a pull whose client was killed:
    what it sends there stays leased to nobody. The emulator does so for as long as the pull had asked to wait."""

    rpc_timeout_s: float = 10.0
    """The deadline of every other request."""

    backoff_base_s: float = 0.1
    """Bound of the first wait after a failure; doubles with each further one."""

    backoff_cap_s: float = 10.0
    """Bound of every wait after a failure."""

    pull_grace_s: float = 3.0
    """At a stop, how long pulls in flight may still return: as long as they wait, for the same reason. What they
    bring is given back at once."""

    drain_s: float = 4.0
    """From the stop on, how long handed-over batches may take before they are given back. Longer than a commit's
    cadence."""

    def __post_init__(self) -> None:
        if self.pull_timeout_s < 2:
            raise ValueError(
                f"pull_timeout_s: {self.pull_timeout_s} is too short, empty pulls would be answered at once"
            )
