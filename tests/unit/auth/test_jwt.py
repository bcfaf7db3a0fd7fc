import base64
import hmac
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from governors.auth.jwt import KeySet, TokenInvalidError, Trust, UnknownKeyError, principal_of, verify
from governors.auth.principal import Principal

NOW_S = 1_795_341_600
NOW_US = NOW_S * 1_000_000
TRUST = Trust(issuer="https://issuer.example", audience="governors", tenants_claim="tenants")
CLAIMS = {"iss": TRUST.issuer, "aud": TRUST.audience, "sub": "alice@example.com", "exp": NOW_S + 300, "iat": NOW_S}

RSA = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()


def jwk(algorithm: str, key: Any, kid: str) -> dict[str, Any]:
    document: dict[str, Any] = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
    return document | {"kid": kid, "use": "sig", "alg": algorithm}


KEYS = KeySet.parse({"keys": [jwk("RS256", RSA, "rsa"), jwk("ES256", EC, "ec"), jwk("EdDSA", ED, "ed")]})


def sign(claims: dict[str, Any], *, key: Any = RSA, algorithm: str = "RS256", kid: str | None = "rsa") -> bytes:
    return jwt.encode(claims, key, algorithm, headers={} if kid is None else {"kid": kid}).encode()


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


@pytest.mark.parametrize(("key", "algorithm", "kid"), [(RSA, "RS256", "rsa"), (EC, "ES256", "ec"), (ED, "EdDSA", "ed")])
def test_a_token_of_the_issuer_is_believed(key: Any, algorithm: str, kid: str) -> None:
    token = sign(CLAIMS, key=key, algorithm=algorithm, kid=kid)

    assert verify(token, KEYS, TRUST, NOW_US) == CLAIMS


@pytest.mark.parametrize(
    "changed",
    [
        {"iss": "https://evil.example"},
        {"aud": "another service"},
        {"exp": NOW_S - 61},
        {"exp": "soon"},
        {"exp": 1e300},
        {"nbf": NOW_S + 61},
        {"iat": NOW_S + 61},
        {"iss": None},
        {"sub": None},
        {"sub": "alice\nbob"},
        {"sub": ""},
        {"sub": "a" * 129},
        {"aud": None},
        {"exp": None},
    ],
)
def test_a_token_with_a_wrong_or_missing_claim_is_refused(changed: dict[str, Any]) -> None:
    claims = {key: value for key, value in (CLAIMS | changed).items() if value is not None}

    with pytest.raises(TokenInvalidError):
        verify(sign(claims), KEYS, TRUST, NOW_US)


def test_a_clock_a_little_off_does_no_harm() -> None:
    late, early = CLAIMS | {"exp": NOW_S - 59}, CLAIMS | {"iat": NOW_S + 59}

    assert verify(sign(late), KEYS, TRUST, NOW_US) == late
    assert verify(sign(early), KEYS, TRUST, NOW_US) == early


def test_a_token_never_chooses_how_it_is_checked() -> None:
    unsigned = jwt.encode(CLAIMS, "", "none", headers={"kid": "rsa"}).encode()
    # The public key as the secret of an HMAC: the classic confusion of algorithms.
    secret = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    content = _base64(b'{"alg":"HS256","kid":"rsa"}') + b"." + _base64(json.dumps(CLAIMS).encode())
    confused = content + b"." + _base64(hmac.digest(secret, content, "sha256"))
    by_another = sign(CLAIMS, key=EC, algorithm="ES256", kid="rsa")

    for token in (unsigned, confused, by_another):
        with pytest.raises(TokenInvalidError):
            verify(token, KEYS, TRUST, NOW_US)


def test_every_changed_byte_is_noticed() -> None:
    token = sign(CLAIMS, key=ED, algorithm="EdDSA", kid="ed")
    # The last character of each part holds bits that no byte needs; all others count.
    spare = {at for at in range(len(token)) if token[at : at + 1] == b"." or token[at + 1 : at + 2] in (b".", b"")}

    for at in set(range(len(token))) - spare:
        changed = token[:at] + (b"A" if token[at : at + 1] != b"A" else b"B") + token[at + 1 :]
        with pytest.raises(TokenInvalidError):
            verify(changed, KEYS, TRUST, NOW_US)


def test_a_key_that_is_not_known_yet_is_told_apart() -> None:
    with pytest.raises(UnknownKeyError):
        verify(sign(CLAIMS, kid="next"), KEYS, TRUST, NOW_US)


@pytest.mark.parametrize("token", [b"", b"a.b.c", b"." * 50, b"\xff" * 50, b"A" * 100_000, sign(CLAIMS, kid=None)])
def test_what_is_no_token_is_refused(token: bytes) -> None:
    with pytest.raises(TokenInvalidError):
        verify(token, KEYS, TRUST, NOW_US)


@pytest.mark.parametrize(
    "document", [None, [], {}, {"keys": "x"}, {"keys": []}, {"keys": [{"kty": "oct", "k": "AA", "kid": "x"}]}]
)
def test_a_key_set_without_a_usable_key_is_refused(document: Any) -> None:
    with pytest.raises(ValueError, match="key"):
        KeySet.parse(document)


def test_claims_become_roles_and_a_scope() -> None:
    claims = CLAIMS | {"roles": ["read", "other"], "tenants": ["acme", 7]}

    assert principal_of(claims, TRUST) == Principal("alice@example.com", frozenset({"read"}), frozenset({"acme"}))
    assert principal_of(CLAIMS | {"roles": "read operate"}, TRUST).roles == {"read", "operate"}


def test_a_missing_claim_gives_nothing() -> None:
    assert principal_of(CLAIMS, TRUST) == Principal("alice@example.com", frozenset(), frozenset())


def test_without_a_claim_for_tenants_every_tenant_is_in_scope() -> None:
    trust = Trust(issuer=TRUST.issuer, audience=TRUST.audience)

    assert principal_of(CLAIMS, trust).tenants is None
