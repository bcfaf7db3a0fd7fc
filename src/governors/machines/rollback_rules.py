"""What each rule of the Rollback Guard says to a person, filled from its evidence."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

_ARMS: Final = (
    "canary {canary_errors} errors and {canary_slow} slow of {canary_requests} requests, "
    "baseline {baseline_errors} and {baseline_slow} of {baseline_requests}"
)
_ALONE: Final = (
    "{canary_errors} errors and {canary_slow} slow of {canary_requests} requests, where at most "
    "{before_errors_ppm:percent} errors and {before_slow_ppm:percent} slow were expected from {before_errors} and "
    "{before_slow} of {before_requests} requests before it, E = {e_errors_milli_nats:e} for errors, "
    "{e_slow_milli_nats:e} for slow"
)
_BURN: Final = "error budget burns at {burn_5m_milli:nats} over 5 min and {burn_deploy_milli:nats} since the deploy"

RULES: Final[Mapping[str, str]] = MappingProxyType(
    {
        # deploys come and go
        "rollback.watch": "revision {revision} is watched for {watch_ms:duration}; before it was {previous_revision}",
        "rollback.supersedes": "deploy {deploy_id} of revision {revision} supersedes {superseded}",
        "rollback.known_deploy": "deploy {deploy_id} is already known",
        "rollback.refused_revision": "revision {revision} was rolled back: refused for {refused_ms:duration} more",
        "rollback.own_rollback": "revision {revision} is what the rollback went back to",
        "rollback.race": "revision {revision} began while {rolled_back} was rolled back: which one won is unknown",
        "rollback.rolling_back_revision": "revision {revision} is being rolled back and is not watched",
        "rollback.other_deploy": "deploy {deploy_id} is not the one under watch",
        "rollback.finished": "the deploy is reported {result}; the watch goes on",
        "rollback.cancelled": "the deploy was cancelled",
        "rollback.deploy_failed": "the deploy failed by itself: nothing is proven, nothing is reverted",
        "rollback.finish_noted": "deploy {deploy_id} is reported {result}",
        # samples
        "rollback.sample": "{arm}: {errors} errors and {slow} slow of {requests} requests",
        "rollback.unwatched_sample": "no deploy is watched: the sample does not count",
        "rollback.past_sample": "between deploys: {errors} errors and {slow} slow of {requests} requests",
        "rollback.clear": f"nothing speaks against the canary: {_ARMS}, E = {{e_errors_milli_nats:e}} for errors, "
        "{e_slow_milli_nats:e} for slow",
        "rollback.errors": f"the canary fails more than tolerated: {_ARMS}, E = {{e_errors_milli_nats:e}}, "
        "limit {limit_errors_milli_nats:e}",
        "rollback.slow": f"the canary is slower than tolerated: {_ARMS}, E = {{e_slow_milli_nats:e}}, "
        "limit {limit_slow_milli_nats:e}",
        "rollback.burn": f"the canary's {_BURN}, limit {{burn_limit_milli:nats}}, the baseline's at "
        "{baseline_burn_milli:nats}",
        "rollback.burning": f"the canary's {_BURN}, a rollback needs more against it: {_ARMS}",
        "rollback.suspect": f"the canary looks worse: {_ARMS}, E = {{e_errors_milli_nats:e}} for errors, "
        "{e_slow_milli_nats:e} for slow, a hold begins at {hold_milli_nats:e}",
        "rollback.unconfirmed": f"the canary is over the limit, but the arms have not reported equally far: {_ARMS}",
        "rollback.both": f"not the deploy: the canary's {_BURN}, and the baseline's at {{baseline_burn_milli:nats}}",
        "rollback.unpaired": f"the canary's {_BURN}, and there is no baseline to compare with",
        "rollback.past": f"the canary is worse than it was before the deploy: {_ALONE}, limits "
        "{limit_errors_milli_nats:e} and {limit_slow_milli_nats:e}",
        "rollback.suspect_alone": f"the canary looks worse than it was before the deploy, and there is no baseline: "
        f"{_ALONE}, a hold begins at {{hold_milli_nats:e}}",
        "rollback.still_held": f"what began the hold has not faded: {_ARMS}",
        "rollback.needs_approval": "over the limit, but {rollbacks} rollbacks in 24 h (at most {rollbacks_max}) or no "
        f"other revision to go back to leave it to a person: {_ARMS}",
        "rollback.faded": f"nothing speaks against the canary any more: {_ARMS}",
        # alerts
        "rollback.alert_hold": "alert {alert} ({severity}) began to fire while revision {revision} is watched",
        "rollback.alert_noted": "alert {alert} ({severity}) is {alert_status}",
        "rollback.alert_late": "alert {alert} ({severity}) was {alert_status}, and something newer is known of it",
        "rollback.alert_resolved": "the alerts that began the hold are resolved",
        # the hold ends
        "rollback.approved": "an operator approved the rollback",
        "rollback.vetoed": "an operator vetoed the rollback: what was seen so far is spent",
        "rollback.hold_elapsed": f"held for {{hold_ms:duration}} without a veto, and the evidence stands: {_ARMS}",
        "rollback.hold_unpaired": f"held for {{hold_ms:duration}} without a veto: the canary's {_BURN}",
        "rollback.hold_alone": "held for {hold_ms:duration}, and without a baseline a rollback needs more against it: "
        f"{_ALONE}",
        "rollback.hold_gone": f"held for {{hold_ms:duration}}, and the evidence is gone: {_ARMS}",
        "rollback.hold_both": f"held for {{hold_ms:duration}}, and both arms are bad still, so not the deploy: {_ARMS}",
        "rollback.hold_alert": "held for {hold_ms:duration}, and {alerts} alerts fire still",
        "rollback.hold_unheard": f"held for {{hold_ms:duration}}, and the arms could not be compared since: {_ARMS}",
        "rollback.hold_few_events": f"held for {{hold_ms:duration}}, with too few bad requests to act on: {_ARMS}",
        "rollback.hold_manual": "held for {hold_ms:duration}, and nobody approved the rollback",
        # the watch ends
        "rollback.proven": f"proven: a canary {{proven_ratio_milli:nats}} times worse can be ruled out: {_ARMS}",
        "rollback.unproven": f"the watch ended without evidence against the canary, which proves nothing: {_ARMS}",
        "rollback.no_traffic": "the watch ended after {watched_requests} canary requests of at least {requests_min}: "
        "the rollout is paused, and nothing is reverted",
        "rollback.let_go": "a person lets the rollout of revision {revision} go on, which hardly anybody used",
        # the rollback and after
        "rollback.rolled_back": "the rollback is done; its effect is watched for {verify_ms:duration}",
        "rollback.by_operator": "an operator's rollback is done; its effect is watched for {verify_ms:duration}",
        "rollback.retry": "rollback attempt {failed_attempt} failed or was not heard of; asked for again",
        "rollback.late_failure": "the attempt that was given up has failed as well; the retry goes on",
        "rollback.failed": "{attempts} attempts to roll back failed or were not heard of",
        "rollback.not_asked": "the rollback of revision {revision} was not asked for in its time: {why}",
        "rollback.refused": "{by} refused the rollback of revision {revision}: what was seen so far is spent",
        "rollback.withheld_result": "action {kind} was taken back: that is no failure of it",
        "rollback.result_noted": "action {kind} has ended",
        "rollback.verify_sample": "{arm}: {errors} errors and {slow} slow of {requests} requests after the rollback",
        "rollback.verify_too_early": "the sample began before the rollback had settled and does not count",
        "rollback.verified": "the rollback helped: {after_errors} errors and {after_slow} slow of {after_requests} "
        "requests, {expected_error_ppm:percent} errors were expected",
        "rollback.not_verified": "the rollback did not help: {after_errors} errors and {after_slow} slow of "
        "{after_requests} requests, {expected_error_ppm:percent} errors were expected",
        "rollback.verify_unknown": "{after_requests} requests after the rollback of {requests_min} needed: "
        "unknown is not success",
        "rollback.cooled_down": "revision {revision} is no longer refused",
        # nothing to do
        "rollback.override_noted": "the override changes no status of its own",
        "rollback.not_due": "nothing is due",
    }
)
