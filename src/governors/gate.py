"""Who is let in: tokens, issuers and certificates as the configuration has them, and what keeps them fresh."""

import random
from collections.abc import Callable
from pathlib import Path

import structlog

from governors.api.guard import Authenticate
from governors.auth.authenticator import Authenticator
from governors.auth.issuer import Fetch, Issuer, fetch_file, fetch_url
from governors.auth.jwt import Trust
from governors.auth.service_account import GOOGLE, service_account_of
from governors.auth.token_file import TokenFile
from governors.certificates import CertificateFiles, Certificates
from governors.runtime import ready_at_once
from governors.settings import OidcSettings, PushSettings, Settings, TlsSettings
from governors.supervision.child import Child
from governors.telemetry.connection_metrics import ConnectionMetrics


class Gate:
    """`authenticate` is None where nobody is asked who they are, `pusher` where nobody may push, `certificates` where
    HTTP is spoken in the clear. `children` read again what may change.

    Making it reads the files, which blocks. Raises TokenFileError, CertificateError.
    """

    def __init__(
        self, settings: Settings, metrics: ConnectionMetrics, clock_us: Callable[[], int], rng: random.Random
    ) -> None:
        self._metrics = metrics
        self._clock_us = clock_us
        self._rng = rng
        self._log = structlog.get_logger("governors")
        tokens_file = settings.auth.tokens_file
        self._tokens = None if tokens_file is None else TokenFile(tokens_file, clock_us, self._on_tokens)
        self._issuer = None if settings.oidc is None else self._issuer_of(settings.oidc)
        is_asked = self._tokens is not None or self._issuer is not None
        self.authenticate: Authenticate | None = (
            Authenticator(self._tokens, self._issuer).principal_of if is_asked else None
        )
        self.pusher = None if settings.push is None else self._pusher_of(settings.push)
        self.certificates = None if settings.tls is None else self._certificates_of(settings.tls)

    def children(self) -> list[Child]:
        """In the order in which they start."""
        named = {
            "token-file": self._tokens,
            "certificates": self.certificates,
            "issuer": self._issuer,
            "push-issuer": self.pusher,
        }
        return [Child(name, ready_at_once(one.run)) for name, one in named.items() if one is not None]

    def _issuer_of(self, settings: OidcSettings) -> Issuer:
        trust = Trust(settings.issuer, settings.audience, settings.roles_claim, settings.tenants_claim)
        return Issuer(trust, _fetch(settings.keys), self._clock_us, self._rng, self._on_issuer_failure)

    def _pusher_of(self, settings: PushSettings) -> Issuer:
        trust, speaks_for = Trust(GOOGLE, settings.audience), service_account_of(settings.service_accounts)
        fetch = _fetch(settings.keys)
        return Issuer(trust, fetch, self._clock_us, self._rng, self._on_issuer_failure, speaks_for)

    def _certificates_of(self, settings: TlsSettings) -> Certificates:
        files = CertificateFiles(settings.certificate, settings.key, settings.client_ca)
        certificates = Certificates(files, self._clock_us, self._on_certificates)
        self._metrics.watch_certificate(lambda: certificates.expires_us / 1_000_000)
        return certificates

    def _on_tokens(self, tokens: int, problem: str) -> None:
        if problem:
            self._log.error("the token file changed and cannot be used: those of before still hold", problem=problem)
        else:
            self._log.info("the token file was read again", tokens=tokens)

    def _on_certificates(self, problem: str) -> None:
        self._metrics.tls_reloaded(ok=not problem)
        if problem:
            self._log.error(
                "the certificate changed and cannot be used: that of before is still shown", problem=problem
            )
        else:
            self._log.info("the certificate was read again")

    def _on_issuer_failure(self, problem: str) -> None:
        self._log.error("the issuer's keys cannot be had; those that are known still hold", problem=problem)


def _fetch(keys: str) -> Fetch:
    # A path has no scheme.
    return fetch_url(keys) if "://" in keys else fetch_file(Path(keys))
