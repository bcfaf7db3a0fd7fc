"""Is arm A's event rate more than a tolerated multiple of arm B's? Evidence that may be looked at after every interval.

Two arms serve `n_a` and `n_b` requests, of which `x_a` and `x_b` are events (errors, slow ones). Given the sum
X = x_a + x_b, at a rate ratio rho an event is A's with probability theta(rho) = rho n_a / (rho n_a + n_b). Against the
reference ratio rho_0 each alternative rho collects the logarithm of its likelihood ratio, in nats,

    x_a ln(theta(rho) / theta(rho_0)) + x_b ln((1 - theta(rho)) / (1 - theta(rho_0)))
        = x_a ln(rho / rho_0) - X ln((rho n_a + n_b) / (rho_0 n_a + n_b)),

and E is the mean of the likelihood ratios over the alternatives (a mixture, so no alternative must be guessed right).
The mean is weighted: an alternative that gets a share w of the stakes costs ln(1/w) nats when it is the true one.

Why it holds at any peeking schedule: for independent events with p_a <= rho_0 p_b on average over each arm's requests
of an interval, ln(1 + x) <= x bounds the interval's expected factor by exp(0) = 1, for Poisson and for Bernoulli
events, whatever p_b does from one interval to the next. So E is a non-negative supermartingale that starts at 1, and
by Ville's inequality P(E ever >= 1/alpha) <= alpha. Intervals may be cut by anything but the event counts themselves.
Alternatives below the reference test the opposite: that the ratio is at least rho_0.

Where there is no arm B but a bound b on its events a request, the one-sample form takes its place: x of n events count
x ln(rho / rho_0) - n b (rho - rho_0) for rho, and the same inequality bounds the expected factor by 1 as long as
p_a <= rho_0 b. If the bound itself holds with probability 1 - beta, what is said with it errs by beta more.

Raising each factor to 1/dispersion keeps the property (Jensen) and pays for bursts: events that come in clumps count
as fewer.

Sources: Ramdas et al., "Game-theoretic statistics and safe anytime-valid inference" (arXiv 2210.01948); Lindon et al.,
"Rapid regression detection in software deployments through sequential testing" (arXiv 2205.14762).
"""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

# exp() of so many nats neither overflows nor vanishes in a double.
SAFE_NATS: Final = 700.0
# It converges to the last digit in six.
NEWTON_STEPS: Final = 8

LogRatios = tuple[float, ...]


class Mixture(NamedTuple):
    """The reference ratio, the alternatives, ln(alternative / reference) of each, and the sums before any evidence:
    ln(weight / mean weight), so that the plain mean of the likelihood ratios is the weighted one.
    """

    reference: float
    alternatives: tuple[float, ...]
    log_ratios: LogRatios
    start: LogRatios


def mixture(reference: float, alternatives: Sequence[float], weights: Sequence[float] = ()) -> Mixture:
    """Bet on `alternatives` against `reference`, with stakes like `weights` (alike without any).

    Raises ValueError unless all lie on one side of it, above 0, and each has a weight above 0.
    """
    weights = weights or [1.0] * len(alternatives)
    if not alternatives or reference <= 0 or min(alternatives) <= 0:
        raise ValueError("ratios must be positive, and there must be an alternative")
    if not (min(alternatives) > reference or max(alternatives) < reference):
        raise ValueError("all alternatives must lie on one side of the reference")
    if len(weights) != len(alternatives) or min(weights) <= 0:
        raise ValueError("each alternative needs a weight above 0")
    mean = sum(weights) / len(weights)
    return Mixture(
        reference,
        tuple(alternatives),
        tuple(math.log(ratio / reference) for ratio in alternatives),
        tuple(math.log(weight / mean) for weight in weights),
    )


def log_spaced(low: float, high: float, count: int) -> tuple[float, ...]:
    """`count` >= 2 ratios from `low` to `high`, each the same multiple of the one before."""
    step = math.log(high / low) / (count - 1)
    return tuple(low * math.exp(step * index) for index in range(count))


def exposure(mix: Mixture, n_a: int, n_b: int) -> LogRatios:
    """ln((rho n_a + n_b) / (rho_0 n_a + n_b)) for each alternative: what one event costs, whichever arm it hit.

    Needs a request in at least one arm. Shared by all metrics of an interval.
    """
    scale = 1.0 / (mix.reference * n_a + n_b)
    a, b = n_a * scale, n_b * scale
    log = math.log
    return tuple([log(ratio * a + b) for ratio in mix.alternatives])


def accumulate(
    mix: Mixture, sums: LogRatios, costs: LogRatios, x_a: int, x_b: int, dispersion: float = 1.0
) -> LogRatios:
    """The running sums after one interval; `sums` may be empty before the first. `costs` are its `exposure`."""
    events = (x_a + x_b) / dispersion
    if not events:
        return sums
    gained = x_a / dispersion
    rows = zip(sums or mix.start, mix.log_ratios, costs, strict=True)
    return tuple([total + gained * ratio - events * cost for total, ratio, cost in rows])


def accumulate_alone(mix: Mixture, sums: LogRatios, expected: float, events: int, dispersion: float = 1.0) -> LogRatios:
    """The running sums of the one-sample form after one interval, in which `expected` events were expected at most."""
    gained, cost = events / dispersion, expected / dispersion
    rows = zip(sums or mix.start, mix.log_ratios, mix.alternatives, strict=True)
    return tuple([total + gained * log - cost * (ratio - mix.reference) for total, log, ratio in rows])


def upper_mean(events: int, alpha: float, dispersion: float = 1.0) -> float:
    """The mean at and above which so few events come with a probability of `alpha` at most, for Poisson and Bernoulli
    events; those of an overdispersed count are as many fewer.

    Chernoff's bound: P(X <= x) <= exp(x - mean + x ln(mean / x)) for x <= mean, solved for the mean.
    """
    few, nats = events / dispersion, -math.log(alpha)
    mean = few + math.sqrt(2.0 * few * nats) + 2.0 * nats
    # Newton from above, where the function is convex: each step stays above the solution.
    for _ in range(NEWTON_STEPS):
        excess = mean - few - nats - (few * math.log(mean / few) if few else 0.0)
        mean -= excess / (1.0 - few / mean)
    return mean * dispersion


def log_e(sums: LogRatios) -> float:
    """The logarithm of E: 0 before any evidence, above it the more the data speak against the reference."""
    if not sums:
        return 0.0
    top = max(sums)
    if -SAFE_NATS < top < SAFE_NATS:
        return math.log(sum(map(math.exp, sums)) / len(sums))
    return top + math.log(sum([math.exp(value - top) for value in sums]) / len(sums))
