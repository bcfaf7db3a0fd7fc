import pytest

from governors.machines.explain import explain


@pytest.mark.parametrize(
    ("micros", "text"),
    [(2_436_497_118, "2436.50"), (2_436_000_000, "2436.00"), (-1_000_001, "-1.00"), (123, "0.000123")],
)
def test_an_estimate_claims_no_more_than_cents_unless_it_is_all_there_is(micros: int, text: str) -> None:
    assert explain({"r": "{forecast:estimate}"}, "r", {"forecast": micros}) == text


def test_money_that_was_measured_is_told_to_its_last_digit() -> None:
    assert explain({"r": "{cost:money}"}, "r", {"cost": 936_528_580}) == "936.52858"


def test_a_rule_whose_evidence_is_missing_is_named_all_the_same() -> None:
    assert explain({"r": "{cost:money} of {budget:money}"}, "r", {"cost": 1}) == "r"
