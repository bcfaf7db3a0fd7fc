"""Every setting: its unit, its default and why. Read from defaults, one YAML file, the environment and options.

A setting is a number or a word; components (stores, clocks, signers) are arguments, never settings. Whatever is wrong
stops the start, all of it at once, each with its key, its value and what was expected.
"""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct, field

from governors.settings_file import FileUnreadableError, read_mapping
from governors.settings_layers import (
    MASK,
    Given,
    Leaf,
    Problem,
    build,
    from_environment,
    from_mapping,
    from_options,
    leaves_of,
    read_leaf,
    shown,
)
from ingest.decode.tenants import Rule

KIB: Final = 1024
MIB: Final = 1024 * KIB
# What a profile can be called: lower case, so that an environment variable can name it.
_PROFILE_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
PROFILE_NAMES: Final = ("standard", "premium", "enterprise")
# RFC 1123, as Kubernetes has it for namespaces and for the names of workloads.
NAMESPACE_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
WORKLOAD_NAME: Final = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
WORKLOAD_NAMES_MAX: Final = 20
EXECUTOR_NAMES: Final = ("kubernetes", "log")
"""What no webhook or topic may be called."""
PLACEHOLDER: Final = re.compile(r"\{(tenant|subject)\}")
"""Stands for what an action is about, in the names of workloads."""
SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where Kubernetes puts a pod's token, with the cluster's certificate authority and the pod's namespace beside it."""

Word = Annotated[str, Meta(min_length=1, max_length=255)]
Host = Word
Port = Annotated[int, Meta(ge=0, le=65_535)]
Origin = Annotated[str, Meta(pattern=r"\Ahttps?://[^/?#@\s]{1,250}\Z")]
TenantName = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._:@+-]{0,127}\Z")]
Email = Annotated[str, Meta(pattern=r"\A[^@\s]{1,128}@[^@\s]{1,128}\Z")]
GoogleName = Annotated[str, Meta(pattern=r"\A[A-Za-z][A-Za-z0-9._~%+:-]{2,254}\Z")]


class HttpSettings(Struct, frozen=True, kw_only=True):
    """The HTTP server."""

    host: Host = "127.0.0.1"
    """Address to listen on. Others than loopback need authentication: `auth.tokens_file` or the section `oidc`."""
    port: Port = 8080
    """TCP port; 0 takes any free one, which the `ready` line then names."""
    body_bytes_max: Annotated[int, Meta(ge=1 * KIB, le=64 * MIB)] = 4 * MIB
    """Largest request body. 4 MiB holds 10,000 signals of 400 bytes."""
    batch_max: Annotated[int, Meta(ge=1, le=100_000)] = 10_000
    """Most signals in one request: at 60,000 a second a full batch keeps others waiting for 0.2 s at most."""
    request_timeout_s: Annotated[float, Meta(gt=0, le=600)] = 30.0
    """Seconds for a whole request, reading it included. Above the 2 s that a commit may gather, with room for a slow
    disk; below the 60 s after which proxies commonly give up."""
    head_timeout_s: Annotated[float, Meta(gt=0, le=60)] = 10.0
    """Seconds for a request's line and headers, and for a new connection to say anything at all."""
    keep_alive_s: Annotated[int, Meta(ge=1, le=3_600)] = 75
    """Seconds that a connection may be idle between requests. Longer than proxies commonly keep theirs (60 s), so that
    none sends into one that is being closed; behind Google's load balancers, which keep theirs for 600 s, take 620."""
    connections_max: Annotated[int, Meta(ge=8, le=100_000)] = 1_000
    """Open connections. Beyond, the one that has been idle for longest makes room, so that probes always get through;
    where all are busy a newcomer is answered with 503. Each may need two open files: the process's limit is raised as
    far as it can be, and else holds."""


class AuthSettings(Struct, frozen=True, kw_only=True):
    """Who may ask. With a token file or an issuer, every request but the probes' needs a bearer token."""

    tokens_file: Path | None = None
    """YAML file of token digests, roles and tenants, read again when it changes. `governors token` makes entries."""


class TlsSettings(Struct, frozen=True, kw_only=True):
    """Encryption of what is spoken on `http.port`. The section is absent unless one of its keys is set: then it is HTTP
    in the clear. The files are PEM, and read again within a second of a change.
    """

    certificate: Path
    """The service's certificate, and behind it those that vouch for it."""
    key: Path
    """Its private key, not encrypted."""
    client_ca: Path | None = None
    """Certificates of those who vouch for clients. Then nobody gets a connection without a certificate of theirs, not
    even a probe; who may do what is still up to tokens."""


class OidcSettings(Struct, frozen=True, kw_only=True):
    """An issuer of JSON Web Tokens whose word is believed. The section is absent unless one of its keys is set."""

    issuer: Word
    """The issuer's identifier, exactly as its tokens have it in `iss`."""
    audience: Word
    """What `aud` must name: this service, by the name that the issuer knows it by."""
    keys: Word
    """Its public keys, a JWK set: an `https://` address, fetched hourly and when a token names an unknown key; or the
    path of a file that somebody else keeps fresh."""
    roles_claim: Word = "roles"
    """Claim with the roles: a list, or words in one text. Others than ours are left out."""
    tenants_claim: Word | None = None
    """Claim with the list of tenants in scope; a token without it has none. Null: every token is for all tenants."""


class LimitSettings(Struct, frozen=True, kw_only=True):
    """How much this worker takes in by HTTP, of one token and about one tenant. What comes in within 10 s at the rate
    may come at once. Null: no limit. Pub/Sub has its own measure: it is given back what cannot be taken.
    """

    token_signals_per_s: Annotated[int, Meta(ge=1, le=10_000_000)] | None = 10_000
    """Signals that the holder of a token may send, a batch counting by its signals: a sixth of what one core decides.
    Two tokens of one name count as one."""
    tenant_signals_per_s: Annotated[int, Meta(ge=1, le=10_000_000)] | None = 1_000
    """Signals about one tenant, from whomever: ten times what a hundred tenants send where 1,000 a second come in; and
    10,000 at once, a full batch."""
    token_requests_per_s: Annotated[int, Meta(ge=1, le=1_000_000)] | None = 100
    """Requests of a token for anything else but admission: tenants, receipts, proofs, overrides."""


class LedgerSettings(Struct, frozen=True, kw_only=True):
    """The receipt ledger in `data_dir`."""

    segment_bytes_max: Annotated[int, Meta(ge=64 * KIB, le=1024 * MIB)] = 16 * MIB
    """A segment is sealed when the next batch would pass this. 16 MiB are some 20,000 receipts: one cheap upload, and
    little to scan at start."""
    batch_bytes_max: Annotated[int, Meta(ge=16 * KIB, le=64 * MIB)] = 4 * MIB
    """Most bytes in one group commit: bounds how long an append behind it waits for its turn."""
    pending_bytes_max: Annotated[int, Meta(ge=16 * KIB, le=1024 * MIB)] = 64 * MIB
    """Bytes that may wait for a slow disk; past it, senders are told to come back later."""
    origin: Word | None = None
    """The log's public name in its checkpoints, fixed when the data folder is made. Null: one is made up then."""
    signing_key: Path | None = None
    """File of the key that signs checkpoints. Machines that may take one log over from each other need the same key.
    Null: `ledger/signing.key` in `data_dir`, made when absent."""


class StoreSettings(Struct, frozen=True, kw_only=True):
    """Where the log is committed to, beyond this machine's disk."""

    url: Word | None = None
    """`gs://bucket/prefix` or `file:///folder`. Null: the folder `store` in `data_dir`, which serves tiles and
    checkpoints and is no second copy; then a receipt is committed as soon as it is on the disk."""
    control_url: Word | None = None
    """Where what is replaced or removed goes, for a `url` that is a bucket with a retention policy: heads, heartbeats,
    public checkpoints, partial tiles. Of the same form; the same for all workers and, once a log has begun, for good.
    Null: it lies beside the rest."""
    commit_interval_s: Annotated[float, Meta(ge=0.1, le=300)] = 2.0
    """Least seconds from one commit to the next, where `url` is set: the pace of external actions and of callers that
    wait for a commit. What only a broker waits for, or nobody, may wait as long again, for the head that renews the
    lease: that is what a machine that is lost takes along at most. Each commit costs two writes in the store, and none
    is made without receipts."""
    publish_interval_s: Annotated[float, Meta(ge=1.1, le=3_600)] = 30.0
    """Seconds from one public checkpoint to the next. Cloud Storage takes one write a second of an object."""
    publish_entries: bool | None = None
    """Whether every receipt is also put into an entry bundle, for readers of C2SP tlog-tiles that are given the store
    itself: the segments there have it anyway, and the workers' `/v1/logs/…` serves bundles either way. Null: in a
    folder yes; in Cloud Storage, where it would be two writes of five, only before the segment is dropped."""
    lease_s: Annotated[float, Meta(ge=2, le=300)] = 6.0
    """Where `url` is set: seconds that another machine waits before it takes the log over, and after 85 % of
    which this one answers nobody if it cannot reach the store. Each commit renews it; without one it takes a write
    after 64 % of it. A shorter one costs more writes than there are commits; a longer one only makes others wait."""


class ClusterSettings(Struct, frozen=True, kw_only=True):
    """How workers over one store share the log's partitions, and reach each other. Each partition belongs to one of
    them; the others hand on to it what they are asked about its tenants, and take over when it goes. Without
    `store.url` there is one worker.
    """

    partitions: Annotated[int, Meta(ge=1, le=1_000)] | None = None
    """Into how many partitions the log is divided, chosen when it is begun and the same ever after. A worker can have
    several, and none can be shared: there should be more of them than there will ever be workers. Null: as many as the
    log has, and one for a new one."""

    advertise: Origin | None = None
    """Address at which the others reach this worker, without a path. Null: `http.host` and the port that it listens
    on, and the machine's name where that is every address."""
    ca: Path | None = None
    """PEM file of those who vouch for the certificates of the others, where they speak TLS. Null: those that the system
    trusts."""
    admission_stale_s: Annotated[float, Meta(ge=3, le=600)] = 10.0
    """Seconds for which a worker answers admission from what another one last told of its tenants. It asks every
    second; 10 s are mostly enough for a third to take over from one that is gone."""
    admission_fails: Literal["open", "closed"] = "open"
    """What becomes of requests past `admission_stale_s`: all pass, or none does. Open, as gateways are shipped: that
    nobody can say what is restricted must not stop everybody who is not."""


class RetentionSettings(Struct, frozen=True, kw_only=True):
    """What the ledger may forget. The section is absent unless one of its keys is set; without it all is kept.

    Things go in whole segments and bundles, so up to half a day later than their days are over.
    """

    payloads_days: Annotated[float, Meta(gt=0, le=36_525)]
    """Days that payloads are kept. Without its payload a decision cannot be taken again; its receipt and the proof of
    it stay."""
    receipts_days: Annotated[float, Meta(gt=0, le=36_525)] | None = None
    """Days that receipts are kept, at least those of payloads. Null: for ever. Their hashes are never dropped, so that
    what is kept can always be proven."""
    receipts_min: Annotated[int, Meta(ge=0)] = 100_000
    """Newest receipts that are kept with their payloads however old they are: a clock that jumps ahead must not empty
    the log."""


class TenantSettings(Struct, frozen=True, kw_only=True):
    """How tenants live in this process."""

    auto_create: bool = False
    """Whether the first signal of an unknown tenant makes it known. On when there is no configuration file at all (a
    first try on a laptop), else only where it is set: a typo in a tenant's name must not become a tenant."""
    machines_max: Annotated[int, Meta(ge=1, le=10_000)] = 32
    """Machines (governor and subject) of one tenant: bounds what a sender of made-up subjects can cost."""
    idle_passivate_s: Annotated[float, Meta(ge=1, le=86_400)] = 600.0
    """Seconds without a signal after which a tenant leaves memory; its state is in the ledger."""
    mailbox_max: Annotated[int, Meta(ge=1, le=1_000_000)] = 20_000
    """Signals that may wait to be decided, in all mailboxes together: two full batches, a third of a second of work."""
    restart_intensity: Annotated[int, Meta(ge=1, le=1_000)] = 10
    """Restarts of one tenant within `restart_period_s` before it is quarantined: three poison signals a minute are
    survived, a tenant that fails on everything is not carried along."""
    restart_period_s: Annotated[float, Meta(gt=0, le=86_400)] = 60.0
    """Seconds over which restarts are counted."""
    dead_letter_after: Annotated[int, Meta(ge=1, le=100)] = 3
    """Failures on one signal before it is put aside with a receipt."""


class DedupSettings(Struct, frozen=True, kw_only=True):
    """How repeated signals are told from new ones."""

    window_ids: Annotated[int, Meta(ge=1_024, le=16_777_216)] = 131_072
    """Newest ids remembered exactly: two minutes at 1,000 signals/s, some 30 MB. Older ones are refused as stale, never
    decided twice."""


class PubSubSettings(Struct, frozen=True, kw_only=True):
    """Signals pulled from Google Pub/Sub. The section is absent unless one of its keys is set."""

    project: GoogleName
    """Google Cloud project id."""
    subscription: GoogleName
    """Subscription to pull from, its short name."""
    topic: GoogleName | None = None
    """Topic of the subscription; only `governors pubsub setup` needs it."""
    dead_letter_topic: GoogleName | None = None
    """Where messages that nobody can read are published, pulled or pushed. Null: the folder `dead-letter` in
    `data_dir`, where signals that a machine fails on go in any case."""
    pulls_in_flight: Annotated[int, Meta(ge=1, le=64)] = 4
    """Pull requests open at once, at most: as few as find enough. The rate stops growing at four and falls with
    sixteen."""
    max_messages: Annotated[int, Meta(ge=1, le=1_000)] = 1_000
    """Messages asked for in one pull; 1,000 is the service's own limit."""
    ack_deadline_s: Annotated[int, Meta(ge=10, le=600)] = 10
    """Seconds until an unacknowledged message comes again, unless its lease was extended, which is done for as long as
    it is held here. So only what a lost worker held comes again, and this is how long it is late then."""
    outstanding_max: Annotated[int, Meta(ge=1, le=1_000_000)] = 10_000
    """Messages pulled and not yet acknowledged, over all pulls; at it, pulling pauses. It pauses earlier while many
    wait to be decided."""


class IngestSettings(Struct, frozen=True, kw_only=True):
    """Messages of other systems: budgets, incidents, deploys, alerts."""

    routing: tuple[Rule, ...] = ()
    """Which tenant they belong to, by what they say of themselves; the first rule that matches holds. Without a match
    a message is put aside: whose it is, is never guessed. docs/formats/sources.md has the facts that rules ask for."""


class PushSettings(Struct, frozen=True, kw_only=True):
    """Messages that Google Pub/Sub pushes to `/v1/push/pubsub`. The section is absent unless one of its keys is set;
    without it there is no such route.
    """

    audience: Word
    """The audience that the push subscription asks a token for: its own setting, or else the endpoint's address."""
    service_accounts: tuple[Email, ...]
    """Accounts in whose name Pub/Sub may push. A token of Google's alone says nothing: anybody can get one."""
    keys: Word = "https://www.googleapis.com/oauth2/v3/certs"
    """Google's public keys, a JWK set: an `https://` address, fetched hourly and when a token names an unknown key; or
    the path of a file that somebody else keeps fresh."""


class VerifySettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where it is read back whether an action is done: by GET, and the answer has to be JSON with the action's id as
    one of its values.
    """

    url: Word | None = None
    """With `{action_id}` where its id belongs, and `{since_s}` where a Unix time does before which it was not decided.
    Null: for PagerDuty and Slack, where they answer such questions."""
    headers_file: Path | None = None
    """Headers that say who asks, one a line (`authorization: Token token=…`). Read for each question. Slack is asked
    with the token that posts, unless another is here."""


PAGERDUTY_INCIDENTS: Final = "https://api.pagerduty.com/incidents?incident_key={action_id}"
SLACK_HISTORY: Final = (
    "https://slack.com/api/conversations.history?channel={channel}&oldest={since_s}&limit=100&include_all_metadata=true"
)


class WebhookSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One receiver of actions, and which of them it gets: those of the kinds, governors and tenants that are named, of
    any where none is.
    """

    name: Word
    url: Word | None = None
    url_file: Path | None = None
    """The address; in a file where it is a secret itself, as Slack's are. `http://` only with `private`."""
    format: Literal["native", "slack", "slack_api", "pagerduty"] = "native"
    """`native`: our own, signed as the Standard Webhooks text has it; the others as those services want them: `slack`
    its incoming webhooks, `slack_api` its `chat.postMessage`, `pagerduty` its Events API v2."""
    secrets_file: Path | None = None
    """Signing secrets (`whsec_…`; private keys, `whsk_…`), one a line, the newest first; while there are two, each
    message carries both signatures. For PagerDuty its routing key, for `slack_api` the bot's token. Read for each
    attempt."""
    channel: Annotated[str, Meta(pattern=r"\A[A-Z0-9]{1,32}\Z")] | None = None
    """The id of the channel that `slack_api` posts to."""
    private: bool = False
    """Whether the address may be one of a private network, or of this machine."""
    read_back: bool = False
    """Whether a `native` receiver that says that it has an action is asked, by GET with the same signed headers, if it
    is done: it is once that answers 200."""
    verify: VerifySettings | None = None
    """Where else that is read back. What cannot be, the answer to the message itself has to say."""
    kinds: tuple[Word, ...] = ()
    governors: tuple[Word, ...] = ()
    tenants: tuple[Word, ...] = ()

    def __post_init__(self) -> None:
        if (self.url is None) == (self.url_file is None):
            raise ValueError(f"{self.name}: expected either url or url_file")
        if self.format == "slack" and self.secrets_file is not None:
            raise ValueError(f"{self.name}: secrets_file is not for slack, whose address is the secret")
        if self.read_back and self.format != "native":
            raise ValueError(f"{self.name}: read_back is for native, {self.format} cannot be asked")
        if self.format != "slack" and self.secrets_file is None:
            raise ValueError(f"{self.name}: secrets_file is needed for {self.format}")
        if (self.channel is None) == (self.format == "slack_api"):
            raise ValueError(f"{self.name}: channel is for slack_api, and needed there")
        if self.url is not None and (problem := webhook_url_problem(self.url, private=self.private)):
            raise ValueError(f"{self.name}: url: {problem}")
        if self.verify is not None and (problem := self._verify_problem(self.verify)):
            raise ValueError(f"{self.name}: verify: {problem}")

    def _verify_problem(self, verify: VerifySettings) -> str:
        if self.format == "slack":
            return "an incoming webhook of Slack's cannot be asked; slack_api can"
        if self.read_back:
            return "expected either read_back or verify"
        if verify.url is None:
            return "url is needed for native" if self.format == "native" else ""
        if self.format != "slack_api" and "{action_id}" not in verify.url:
            return "url: expected {action_id} in it"
        if problem := webhook_url_problem(verify.url, private=self.private):
            return f"url: {problem}"
        return ""


def webhook_url_problem(url: str, *, private: bool) -> str:
    """What is wrong with a webhook's address; empty where nothing is."""
    try:
        address = urlsplit(url)
        port = address.port
    except ValueError:
        return "not an address"
    if not address.hostname or port == 0:
        return "not an address"
    if address.scheme == "https" or (address.scheme == "http" and private):
        return ""
    return "expected an https:// address (http:// only with private)"


class WorkloadSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Workloads of a Kubernetes cluster, and which actions they get: those of the kinds, governors, tenants and
    subjects that are named, of any where none is, as far as they can be done to a workload.
    """

    workload: Literal["Deployment", "Rollout"] = "Deployment"
    """`Rollout`: Argo's."""
    namespace: Word | None = None
    """Null: the service account's own, as the file `namespace` beside its token says. May have `{tenant}` and
    `{subject}` in it, as names may."""
    names: tuple[Word, ...] = ("{subject}",)
    stop_replicas: Annotated[int, Meta(ge=0, le=10_000)] | None = None
    """What a `stop` leaves of each; a `throttle` and a `restore` give back what was there before. Null: none of these
    is for them."""
    kinds: tuple[Word, ...] = ()
    governors: tuple[Word, ...] = ()
    tenants: tuple[Word, ...] = ()
    subjects: tuple[Word, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= len(self.names) <= WORKLOAD_NAMES_MAX:
            raise ValueError(f"names: expected 1 to {WORKLOAD_NAMES_MAX}")
        if self.namespace is not None and (problem := workload_pattern_problem(self.namespace, NAMESPACE_NAME)):
            raise ValueError(f"namespace: {problem}")
        for name in self.names:
            if problem := workload_pattern_problem(name, WORKLOAD_NAME):
                raise ValueError(f"names: {problem}")


def workload_pattern_problem(pattern: str, expected: re.Pattern[str]) -> str:
    """What is wrong with the pattern of a name; empty where nothing is."""
    if expected.fullmatch(PLACEHOLDER.sub("x", pattern)):
        return ""
    return f"{pattern!r} is no name in Kubernetes, perhaps with {{tenant}} or {{subject}} in it"


class KubernetesSettings(Struct, frozen=True, kw_only=True):
    """A cluster whose workloads governors roll back, hold and scale. The section is absent unless one of its keys is
    set. The defaults are right inside the cluster, with a service account that may do so (deploy/k8s/executor).
    """

    server: Word = "https://kubernetes.default.svc"
    """The API server's address. `http://` only to this machine, as `kubectl proxy` offers it."""
    token_file: Path | None = SERVICE_ACCOUNT / "token"
    """The bearer token, read for each attempt: Kubernetes renews it under the same name. Null: none is sent."""
    ca_file: Path | None = SERVICE_ACCOUNT / "ca.crt"
    """Who vouches for the API server, in PEM form. Null: whom this machine trusts."""
    workloads: tuple[WorkloadSettings, ...] = ()
    """The first that takes an action gets it."""


class ActionTopicSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One Pub/Sub topic that actions are published to, and which of them it gets, as for webhooks."""

    name: Word
    project: GoogleName
    """Google Cloud project id."""
    topic: GoogleName
    """The topic's short name."""
    read_back: bool = True
    """Whether an action is done only once it has come back from the topic, by a subscription that each worker makes for
    itself, and that is gone a day after the worker is. Where it is not, the service's word for it that it has a message
    is enough."""
    kinds: tuple[Word, ...] = ()
    governors: tuple[Word, ...] = ()
    tenants: tuple[Word, ...] = ()


class ActionSettings(Struct, frozen=True, kw_only=True):
    """Who carries out what governors decide. An action goes to the first that takes it, and else into the log alone."""

    kubernetes: KubernetesSettings | None = None
    """Asked before webhooks."""
    webhooks: tuple[WebhookSettings, ...] = ()
    """Receivers, in the order in which they are asked whether they take an action."""
    topics: tuple[ActionTopicSettings, ...] = ()
    """Pub/Sub topics, asked in this order after webhooks."""
    dry_run: bool = False
    """Whether actions are only said in the log, with who would have got them."""


class LogSettings(Struct, frozen=True, kw_only=True):
    """The process's own log, on standard output."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe entries that are written."""
    format: Literal["auto", "json", "console"] = "auto"
    """`json` has Cloud Logging's field names; `auto` is `console` on a terminal, else `json`."""


class MetricsSettings(Struct, frozen=True, kw_only=True):
    """What `/metrics` tells."""

    tenant_labels: tuple[TenantName, ...] = ()
    """Tenants that get series of their own. Listed one by one: a label for each of 10,000 tenants would break the
    Prometheus that scrapes it."""


class Settings(Struct, frozen=True, kw_only=True):
    """All of it. Built by `load`; built directly (in a test) it has the defaults that a configuration file has."""

    data_dir: Path = Path("data")
    """Folder of the ledger and of everything else that outlives the process; made when absent."""
    default_profile: Word = "standard"
    """Profile of a tenant for which nobody chose one."""
    policies: Path | None = None
    """YAML file, or folder of them, with profiles, what differs for single tenants, and windows of time. Read again on
    SIGHUP and `POST /v1/policies/reload`: docs/policies.md."""
    http: HttpSettings = field(default_factory=HttpSettings)
    auth: AuthSettings = field(default_factory=AuthSettings)
    oidc: OidcSettings | None = None
    tls: TlsSettings | None = None
    limits: LimitSettings = field(default_factory=LimitSettings)
    ledger: LedgerSettings = field(default_factory=LedgerSettings)
    store: StoreSettings = field(default_factory=StoreSettings)
    cluster: ClusterSettings = field(default_factory=ClusterSettings)
    retention: RetentionSettings | None = None
    tenants: TenantSettings = field(default_factory=TenantSettings)
    dedup: DedupSettings = field(default_factory=DedupSettings)
    pubsub: PubSubSettings | None = None
    ingest: IngestSettings = field(default_factory=IngestSettings)
    push: PushSettings | None = None
    actions: ActionSettings = field(default_factory=ActionSettings)
    log: LogSettings = field(default_factory=LogSettings)
    metrics: MetricsSettings = field(default_factory=MetricsSettings)
    profiles: dict[str, dict[str, dict[str, Any]]] = {}
    """Profile -> governor -> policy key -> value: what differs from the governors' own defaults. `standard`, `premium`
    and `enterprise` are always there."""


class SettingsError(Exception):
    """The configuration cannot be used; the start stops. `problems` is everything that is wrong with it."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class SettingRow(NamedTuple):
    """One line of `governors config check`: `value` is plain data, a secret's is masked."""

    key: str
    value: Any
    origin: str


@dataclass(frozen=True, slots=True)
class Effective:
    """The configuration that is in force, and who said so: `origins` maps each key to `default`, `file PATH`,
    `env NAME` or `option`.
    """

    settings: Settings
    origins: Mapping[str, str]
    rows: tuple[SettingRow, ...]


def load(
    config_path: Path | None,
    env: Mapping[str, str],
    options: Mapping[str, Any],
    policies: Mapping[str, type[Struct]],
) -> Effective:
    """Read the configuration.

    `options` are command line options by dotted key (`http.port`), None for those not given; `policies` is the policy
    Struct of each governor, whose fields are the keys of a profile.

    Raises SettingsError with every problem found.
    """
    problems: list[Problem] = []
    document, origin = (_read_file(config_path), f"file {config_path}") if config_path is not None else ({}, "")
    leaves = _leaves(document, policies)

    # Each layer wins over those before it, key by key.
    given: dict[str, Given] = {}
    if config_path is None:
        given["tenants.auto_create"] = Given(True, "default")
    for values, found in (
        from_mapping(document, leaves, origin),
        from_environment(env, leaves),
        from_options(options, leaves),
    ):
        given |= values
        problems += found

    values = {}
    for key, one in given.items():
        value, problem = read_leaf(key, leaves[key], one)
        if problem is None:
            values[key] = value
        else:
            problems.append(problem)
    problems += _missing(leaves, given)
    origins = {key: given[key].origin if key in given else "default" for key in leaves}
    if not problems:
        settings: Settings = build(Settings, {k: v for k, v in values.items() if not k.startswith("profiles.")})
        settings = msgspec.structs.replace(settings, profiles=_nested(leaves, values))
        problems += _contradictions(settings, policies, origins)
    if problems:
        raise SettingsError(problems)
    return Effective(settings, origins, _rows(leaves, values, origins))


def _read_file(path: Path) -> Mapping[Any, Any]:
    try:
        return read_mapping(path)
    except FileUnreadableError as error:
        raise SettingsError([Problem("--config", shown(str(path)), "option", str(error))]) from error


def _leaves(document: Mapping[Any, Any], policies: Mapping[str, type[Struct]]) -> dict[str, Leaf]:
    """All keys there are. Profiles of other names than the standard ones exist when the file has them."""
    leaves = leaves_of(Settings)
    del leaves["profiles"]
    own = document.get("profiles")
    added = [name for name in own if _is_profile_name(name)] if isinstance(own, Mapping) else []
    for profile in dict.fromkeys([*PROFILE_NAMES, *added]):
        for governor, policy in policies.items():
            leaves |= leaves_of(policy, f"profiles.{profile}.{governor}.")
    return leaves


def _is_profile_name(name: object) -> bool:
    return isinstance(name, str) and _PROFILE_NAME.fullmatch(name) is not None


def _missing(leaves: Mapping[str, Leaf], given: Mapping[str, Given]) -> list[Problem]:
    """Keys without a default, in sections that somebody began."""
    begun = {key.partition(".")[0] for key in given}
    return [
        Problem(key, "", "not set", "needed because its section is in use")
        for key, leaf in leaves.items()
        if leaf.default is msgspec.NODEFAULT and key not in given and key.partition(".")[0] in begun
    ]


def _nested(leaves: Mapping[str, Leaf], values: Mapping[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """The profiles' values, key by key, as profile -> governor -> key -> value; a profile may change nothing."""
    known = [key.split(".")[1] for key in leaves if key.startswith("profiles.")]
    profiles: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in (*PROFILE_NAMES, *known)}
    for key, value in values.items():
        if key.startswith("profiles."):
            _, profile, governor, name = key.split(".", 3)
            profiles[profile].setdefault(governor, {})[name] = value
    return profiles


def _contradictions(
    settings: Settings, policies: Mapping[str, type[Struct]], origins: Mapping[str, str]
) -> list[Problem]:
    """Values that are each possible, but not together."""
    ledger, tenants = settings.ledger, settings.tenants
    found: list[tuple[str, Any, str]] = []
    is_asked = settings.auth.tokens_file is not None or settings.oidc is not None
    if not is_asked and not _is_loopback(settings.http.host):
        expected = (
            "expected 127.0.0.1, ::1 or localhost, as long as there is no authentication (auth.tokens_file, oidc)"
        )
        found.append(("http.host", settings.http.host, expected))
    if settings.oidc is not None and not _is_https_or_path(settings.oidc.keys):
        expected = "expected an https:// address (http:// to this machine alone), or a path"
        found.append(("oidc.keys", settings.oidc.keys, expected))
    if settings.push is not None and not _is_https_or_path(settings.push.keys):
        expected = "expected an https:// address (http:// to this machine alone), or a path"
        found.append(("push.keys", settings.push.keys, expected))
    if settings.push is not None and not settings.push.service_accounts:
        found.append(("push.service_accounts", [], "expected at least one"))
    if ledger.batch_bytes_max > ledger.segment_bytes_max:
        limit = ledger.segment_bytes_max
        found.append(("ledger.batch_bytes_max", ledger.batch_bytes_max, f"expected at most segment_bytes_max, {limit}"))
    if ledger.pending_bytes_max < ledger.batch_bytes_max:
        limit = ledger.batch_bytes_max
        found.append(
            ("ledger.pending_bytes_max", ledger.pending_bytes_max, f"expected at least batch_bytes_max, {limit}")
        )
    control_url = settings.store.control_url
    if control_url is not None and settings.store.url is None:
        found.append(("store.control_url", control_url, "expected store.url, for what is not replaced"))
    elif control_url is not None and control_url.rstrip("/") == (settings.store.url or "").rstrip("/"):
        found.append(("store.control_url", control_url, "expected another place than store.url"))
    retention = settings.retention
    if retention is not None and (retention.receipts_days or retention.payloads_days) < retention.payloads_days:
        expected = f"expected at least payloads_days, {retention.payloads_days:g}"
        found.append(("retention.receipts_days", retention.receipts_days, expected))
    if tenants.mailbox_max < settings.http.batch_max:
        expected = f"expected at least http.batch_max, {settings.http.batch_max}, else a full batch never fits"
        found.append(("tenants.mailbox_max", tenants.mailbox_max, expected))
    if tenants.restart_intensity < tenants.dead_letter_after:
        expected = f"expected at least dead_letter_after, {tenants.dead_letter_after}: one bad signal quarantines"
        found.append(("tenants.restart_intensity", tenants.restart_intensity, expected))
    if settings.default_profile not in settings.profiles:
        expected = "expected one of " + ", ".join(settings.profiles)
        found.append(("default_profile", settings.default_profile, expected))
    actions = settings.actions
    names = [*(one.name for one in actions.webhooks), *(one.name for one in actions.topics)]
    if twice := next((name for name in names if names.count(name) > 1 or name in EXECUTOR_NAMES), None):
        expected = f"expected names that are told apart, also from {', '.join(EXECUTOR_NAMES)}: {twice}"
        found.append(("actions.topics" if actions.topics else "actions.webhooks", names, expected))
    cluster = actions.kubernetes
    if cluster is not None and not _is_api_server(cluster.server):
        expected = "expected an https:// address without a path (http:// to this machine alone)"
        found.append(("actions.kubernetes.server", cluster.server, expected))
    problems = [Problem(key, shown(value), origins[key], expected) for key, value, expected in found]
    return problems + _impossible_policies(settings, policies)


def _impossible_policies(settings: Settings, policies: Mapping[str, type[Struct]]) -> list[Problem]:
    problems: list[Problem] = []
    for profile, pack in settings.profiles.items():
        for governor, values in pack.items():
            key = f"profiles.{profile}.{governor}"
            try:
                build(policies[governor], {f"{key}.{name}": value for name, value in values.items()}, f"{key}.")
            except ValueError as error:  # a policy's own word on values that do not go together
                problems.append(Problem(key, shown(values), "profile", str(error)))
    return problems


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_https_or_path(keys: str) -> bool:
    """Keys that came in the clear could be anybody's."""
    address = urlsplit(keys)
    if address.scheme == "http":
        return _is_loopback(address.hostname or "")
    return address.scheme in ("", "https")


def _is_api_server(server: str) -> bool:
    try:
        address = urlsplit(server)
        port = address.port
    except ValueError:
        return False
    if not address.hostname or port == 0 or address.path not in ("", "/") or address.query or address.username:
        return False
    return address.scheme == "https" or (address.scheme == "http" and _is_loopback(address.hostname))


def _rows(leaves: Mapping[str, Leaf], values: Mapping[str, Any], origins: Mapping[str, str]) -> tuple[SettingRow, ...]:
    required = {key for key, leaf in leaves.items() if leaf.default is msgspec.NODEFAULT}
    unused = {key.partition(".")[0] for key in required - values.keys()}
    rows = []
    for key, leaf in leaves.items():
        if key.partition(".")[0] not in unused:
            value = values.get(key, leaf.default)
            plain = MASK if leaf.secret and value else msgspec.to_builtins(value, enc_hook=str)
            rows.append(SettingRow(key, plain, origins[key]))
    return tuple(rows)
