"""Google, as far as Pub/Sub's pushes need it: a key, and tokens that it signs."""

import json
import time
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

from governors.auth.service_account import GOOGLE

AUDIENCE = "https://governors.example/v1/push/pubsub"
ACCOUNT = "push@governors-test.iam.gserviceaccount.com"


class Google:
    """The keys that sign what Pub/Sub pushes with; `path` gets the public ones."""

    def __init__(self, path: Path) -> None:
        self._key = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
        public: dict[str, Any] = jwt.get_algorithm_by_name("RS256").to_jwk(self._key.public_key(), as_dict=True)
        path.write_text(json.dumps({"keys": [public | {"kid": "k1", "use": "sig", "alg": "RS256"}]}))

    def token(self, **changes: Any) -> dict[str, str]:
        now_s = time.time_ns() // 1_000_000_000
        claims = {
            "iss": GOOGLE,
            "aud": AUDIENCE,
            "azp": "113774264463038321964",
            "sub": "113774264463038321964",
            "email": ACCOUNT,
            "email_verified": True,
            "iat": now_s,
            "exp": now_s + 3_600,
        }
        signed = jwt.encode(claims | changes, self._key, "RS256", headers={"kid": "k1"})
        return {"Authorization": f"Bearer {signed}"}
