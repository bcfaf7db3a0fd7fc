"""Signatures as the Standard Webhooks text has them."""

import base64

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
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


def test_a_private_key_signs_what_its_public_part_verifies() -> None:
    seed = bytes(range(32))
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key()
    for written in (seed, seed + public.public_bytes_raw()):
        key = parse_secret("whsk_" + base64.b64encode(written).decode())
        shared, signature = sign([bytes(32), key], "msg_1", 7, b"body")["webhook-signature"].split(" ")
        assert shared.startswith("v1,")
        version, _, said = signature.partition(",")
        assert version == "v1a"
        public.verify(base64.b64decode(said), b"msg_1.7.body")
        with pytest.raises(InvalidSignature):
            public.verify(base64.b64decode(said), b"msg_1.8.body")


@given(st.binary(min_size=24, max_size=64))
def test_a_secret_is_read_as_it_is_written(key: bytes) -> None:
    assert parse_secret("whsec_" + base64.b64encode(key).decode()) == key


@pytest.mark.parametrize(
    "text",
    [
        "",
        "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "whsec_",
        "whsec_!!!",
        "whsec_" + "QUFB" * 5,
        "whsec_" + "QUFB" * 30,
        "whsk_",
        "whsk_!!!",
        "whsk_" + "QUFB" * 10,
        "whsk_" + "QUFB" * 12,
    ],
)
def test_what_is_no_secret_is_refused_without_being_told(text: str) -> None:
    with pytest.raises(SecretInvalidError) as refused:
        parse_secret(text)
    secret = text.removeprefix("whsec_").removeprefix("whsk_")
    assert len(secret) < 2 or secret not in str(refused.value)
