"""Secrets, and the layers under a schema of the test's own."""

from msgspec import Struct

from governors.settings_layers import Given, Leaf, Secret, from_environment, from_mapping, from_options, leaves_of
from governors.settings_layers import read_leaf as read


class Push(Struct):
    token: Secret
    previous_token: Secret | None = None


class Schema(Struct):
    push: Push | None = None


LEAVES = leaves_of(Schema)


def test_a_secret_is_read_from_the_environment() -> None:
    given, problems = from_environment({"GOVERNORS_PUSH__TOKEN": "hush"}, LEAVES)
    assert problems == []
    value, problem = read("push.token", LEAVES["push.token"], given["push.token"])
    assert problem is None
    assert value == "hush"
    assert isinstance(value, Secret)


def test_a_secret_is_refused_in_a_file_and_on_the_command_line() -> None:
    for given, problems in (
        from_mapping({"push": {"token": "hush"}}, LEAVES, "file x"),
        from_options({"push.token": "hush"}, LEAVES),
    ):
        assert given == {}
        assert [problem.expected for problem in problems] == ["a secret may only come from GOVERNORS_PUSH__TOKEN"]
        assert "hush" not in str(problems)


def test_a_secret_is_never_printed() -> None:
    assert "hush" not in repr(Push(Secret("hush")))
    _, problem = read("push.token", Leaf(Secret, None), Given("", "env X", text=True))
    assert problem is not None
    assert "********" in str(problem)


def test_an_optional_secret_is_a_secret() -> None:
    assert LEAVES["push.previous_token"].secret
