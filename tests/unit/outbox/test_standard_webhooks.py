"""Signatures as the Standard Webhooks text has them."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from governors.outbox.standard_webhooks import SecretInvalidError, parse_secret, sign

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def test_the_texts_own_example_is_signed_as_it_says() -> None:
    # From the specification's section on signatures.
    headers = sign([parse_secret(SECRET)], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, b'{"test": 2432232314}')
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_two_secrets_give_two_signatures() -> None:
    one, other = parse_secret(SECRET), bytes(32)
    both = sign([one, other], "id", 1, b"x")["webhook-signature"]
    alone = [sign([key], "id", 1, b"x")["webhook-signature"] for key in (one, other)]
    assert both.split(" ") == alone


@given(st.binary(min_size=24, max_size=64))
def test_a_secret_is_read_as_it_is_written(key: bytes) -> None:
    assert parse_secret("whsec_" + base64.b64encode(key).decode()) == key


@pytest.mark.parametrize(
    "text",
    ["", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_", "whsec_!!!", "whsec_" + "QUFB" * 5, "whsec_" + "QUFB" * 30],
)
def test_what_is_no_secret_is_refused_without_being_told(text: str) -> None:
    with pytest.raises(SecretInvalidError) as refused:
        parse_secret(text)
    assert len(text) < 8 or text.removeprefix("whsec_") not in str(refused.value)
