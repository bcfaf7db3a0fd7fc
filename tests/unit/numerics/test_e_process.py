import itertools
import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from governors.numerics.e_process import (
    Mixture,
    accumulate,
    accumulate_alone,
    exposure,
    log_e,
    log_spaced,
    mixture,
    upper_mean,
)

TOLERATED = 1.25
AGAINST = mixture(TOLERATED, log_spaced(1.5, 20.0, 12))
WEIGHTED = mixture(TOLERATED, (2.0, 5.0, 10.0), (1.0, 8.0, 1.0))


def weigh(mix: Mixture, sums: tuple[float, ...], n_a: int, n_b: int, x_a: int, x_b: int) -> tuple[float, ...]:
    return accumulate(mix, sums, exposure(mix, n_a, n_b), x_a, x_b)


def binomial(n: int, p: float) -> list[float]:
    return [math.comb(n, x) * p**x * (1 - p) ** (n - x) for x in range(n + 1)]


def poisson(rng: random.Random, mean: float) -> int:
    threshold, count, product = math.exp(-mean), 0, rng.random()
    while product >= threshold:
        count += 1
        product *= rng.random()
    return count


def test_ratios_are_spaced_by_one_factor_from_end_to_end() -> None:
    ratios = log_spaced(1.5, 20.0, 12)
    steps = [b / a for a, b in itertools.pairwise(ratios)]
    assert ratios[0] == pytest.approx(1.5)
    assert ratios[-1] == pytest.approx(20.0)
    assert steps == pytest.approx([steps[0]] * 11)


@pytest.mark.parametrize("alternatives", [(), (0.0,), (-1.0,), (1.0, 2.0), (1.25,)])
def test_alternatives_lie_on_one_side_of_the_reference(alternatives: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"ratios|alternatives"):
        mixture(1.25, alternatives)


@pytest.mark.parametrize(("n_a", "n_b"), [(5, 5), (3, 12), (12, 3)])
@pytest.mark.parametrize("p_b", [0.01, 0.2, 0.7])
@pytest.mark.parametrize("ratio", [0.3, 1.0, TOLERATED])
@pytest.mark.parametrize("mix", [AGAINST, WEIGHTED])
def test_an_interval_is_expected_to_gain_nothing_while_the_ratio_is_tolerated(
    n_a: int, n_b: int, p_b: float, ratio: float, mix: Mixture
) -> None:
    expected = 0.0
    for x_a, likely_a in enumerate(binomial(n_a, ratio * p_b)):
        for x_b, likely_b in enumerate(binomial(n_b, p_b)):
            expected += likely_a * likely_b * math.exp(log_e(weigh(mix, (), n_a, n_b, x_a, x_b)))
    assert expected <= 1.0 + 1e-12


def test_an_interval_is_expected_to_gain_where_the_ratio_is_not_tolerated() -> None:
    expected = 0.0
    for x_a, likely_a in enumerate(binomial(12, 0.6)):
        for x_b, likely_b in enumerate(binomial(12, 0.1)):
            expected += likely_a * likely_b * log_e(weigh(AGAINST, (), 12, 12, x_a, x_b))
    assert expected > 0.5


@given(n_a=st.integers(1, 10_000), n_b=st.integers(1, 10_000), x_a=st.integers(0, 50), x_b=st.integers(0, 50))
def test_the_sums_are_the_likelihood_ratios_of_the_conditional_binomial(n_a: int, n_b: int, x_a: int, x_b: int) -> None:
    def log_likelihood(ratio: float) -> float:
        share = ratio * n_a / (ratio * n_a + n_b)
        return x_a * math.log(share) + x_b * math.log(1 - share)

    sums = weigh(AGAINST, (0.0,) * 12, n_a, n_b, x_a, x_b)
    ratios = [log_likelihood(ratio) - log_likelihood(TOLERATED) for ratio in AGAINST.alternatives]
    assert sums == pytest.approx(ratios, abs=1e-8)


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 0.0, 1.0), (1.0, -1.0, 1.0), (1.0, 1.0, 1.0, 1.0)])
def test_each_alternative_has_a_weight_above_0(weights: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="weight"):
        mixture(TOLERATED, (2.0, 5.0, 10.0), weights)


@given(x_a=st.integers(0, 50), x_b=st.integers(1, 50), scale=st.floats(0.1, 10.0))
def test_e_is_the_weighted_mean_of_what_each_alternative_alone_comes_to(x_a: int, x_b: int, scale: float) -> None:
    weights = (0.1, 0.8, 0.1)
    each = [math.exp(log_e(weigh(mixture(TOLERATED, [ratio]), (), 75, 675, x_a, x_b))) for ratio in (2.0, 5.0, 10.0)]
    together = mixture(TOLERATED, (2.0, 5.0, 10.0), [scale * weight for weight in weights])
    expected = sum(weight * one for weight, one in zip(weights, each, strict=True))
    assert math.exp(log_e(weigh(together, (), 75, 675, x_a, x_b))) == pytest.approx(expected)


def test_e_is_the_mean_of_the_likelihood_ratios() -> None:
    assert log_e((math.log(3.0), math.log(5.0))) == pytest.approx(math.log(4.0))
    assert log_e(()) == 0.0


@pytest.mark.parametrize("shift", [1e6, -1e6])
def test_e_neither_overflows_nor_vanishes(shift: float) -> None:
    assert log_e((shift, shift + math.log(3.0))) == pytest.approx(shift + math.log(2.0))


def test_one_arm_alone_is_no_evidence() -> None:
    assert weigh(AGAINST, (), 1000, 0, 500, 0) == pytest.approx((0.0,) * 12)
    assert weigh(AGAINST, (), 0, 1000, 0, 500) == pytest.approx((0.0,) * 12)


def test_an_interval_without_events_changes_nothing() -> None:
    assert weigh(AGAINST, (), 1000, 1000, 0, 0) == ()
    assert weigh(AGAINST, (0.5,) * 12, 1000, 1000, 0, 0) == (0.5,) * 12


@pytest.mark.parametrize("mix", [AGAINST, WEIGHTED])
def test_the_probability_of_ever_passing_the_limit_is_kept_however_often_one_looks(mix: Mixture) -> None:
    rng = random.Random(20261122)
    alpha, runs = 0.05, 1500
    passed = 0
    for _ in range(runs):
        sums: tuple[float, ...] = ()
        base = rng.choice((0.2, 1.0, 4.0))
        for _interval in range(40):
            x_a, x_b = poisson(rng, TOLERATED * base), poisson(rng, 3 * base)
            sums = weigh(mix, sums, 1000, 3000, x_a, x_b)
            if log_e(sums) >= math.log(1 / alpha):
                passed += 1
                break
    assert passed <= runs * alpha
    assert passed > 0, "the worst tolerated ratio must come near the limit now and then, or the test shows nothing"


def test_ten_times_the_errors_are_found_within_three_intervals() -> None:
    rng = random.Random(5)
    taken = []
    for _ in range(200):
        sums: tuple[float, ...] = ()
        intervals = 0
        while log_e(sums) < math.log(200):
            intervals += 1
            sums = weigh(AGAINST, sums, 75, 675, poisson(rng, 75 * 0.05), poisson(rng, 675 * 0.005))
        taken.append(intervals)
    assert statistics.median(taken) <= 3


def test_dispersion_pays_for_events_that_come_in_clumps() -> None:
    rng = random.Random(77)
    alpha, runs, clump = 0.05, 600, 4
    plain = dispersed = 0
    for _ in range(runs):
        sums: tuple[float, ...] = ()
        tempered: tuple[float, ...] = ()
        worst = worst_tempered = 0.0
        for _interval in range(40):
            x_a, x_b = clump * poisson(rng, TOLERATED), clump * poisson(rng, 3.0)
            costs = exposure(AGAINST, 1000, 3000)
            sums = accumulate(AGAINST, sums, costs, x_a, x_b)
            tempered = accumulate(AGAINST, tempered, costs, x_a, x_b, dispersion=float(clump))
            worst, worst_tempered = max(worst, log_e(sums)), max(worst_tempered, log_e(tempered))
        plain += worst >= math.log(1 / alpha)
        dispersed += worst_tempered >= math.log(1 / alpha)
    assert dispersed <= runs * alpha < plain


def test_alternatives_below_the_reference_prove_the_opposite() -> None:
    proof = mixture(1.5, log_spaced(0.6, 1.2, 4))
    sums: tuple[float, ...] = ()
    for _ in range(40):
        sums = weigh(proof, sums, 1000, 1000, 10, 10)
    assert log_e(sums) > math.log(100)
    for _ in range(80):
        sums = weigh(proof, sums, 1000, 1000, 20, 10)
    assert log_e(sums) < 0


# The one-sample form


@pytest.mark.parametrize("share", [0.0, 0.001, 0.004, 0.005])
@pytest.mark.parametrize("mix", [AGAINST, WEIGHTED])
def test_alone_its_expectation_is_at_most_one_while_the_rate_is_tolerated(share: float, mix: Mixture) -> None:
    requests, bound = 200, 0.004
    expected = sum(
        chance * math.exp(log_e(accumulate_alone(mix, (), requests * bound, events)))
        for events, chance in enumerate(binomial(requests, share))
    )
    assert expected <= 1.0 + 1e-9


@given(st.integers(0, 50), st.integers(0, 50), st.floats(0.1, 30.0))
def test_alone_more_events_are_more_evidence(few: int, more: int, expected: float) -> None:
    evidence = [log_e(accumulate_alone(AGAINST, (), expected, few + extra)) for extra in (0, more)]
    assert evidence[0] <= evidence[1] + 1e-9


def test_alone_intervals_add_up() -> None:
    whole = accumulate_alone(AGAINST, (), 3.0, 7)
    parts = accumulate_alone(AGAINST, accumulate_alone(AGAINST, (), 1.0, 5), 2.0, 2)
    assert parts == pytest.approx(whole)


def test_alone_events_in_clumps_count_as_fewer() -> None:
    assert 0 < log_e(accumulate_alone(AGAINST, (), 2.0, 12, 3.0)) < log_e(accumulate_alone(AGAINST, (), 2.0, 12))


def poisson_below(events: int, mean: float) -> float:
    return sum(math.exp(-mean + count * math.log(mean) - math.lgamma(count + 1)) for count in range(events + 1))


@given(st.integers(0, 400), st.sampled_from([0.5, 0.05, 0.0025, 1e-6]))
def test_so_few_events_are_unlikely_at_the_upper_mean(events: int, alpha: float) -> None:
    mean = upper_mean(events, alpha)
    assert mean > events
    assert poisson_below(events, mean) <= alpha * (1 + 1e-9)
    assert mean <= events + math.sqrt(2 * events * -math.log(alpha)) + 2 * -math.log(alpha), "and it is not far off"


def test_without_events_the_upper_mean_is_the_exact_one() -> None:
    assert upper_mean(0, 0.05) == pytest.approx(-math.log(0.05))
    assert upper_mean(0, 0.05, 3.0) == pytest.approx(-3 * math.log(0.05))
