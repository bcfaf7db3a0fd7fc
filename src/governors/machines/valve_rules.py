"""The Backlog Valve's rules, each with the sentence that a person reads."""

from types import MappingProxyType
from typing import Final

RULES: Final = MappingProxyType(
    {
        "valve.flowing": "work waits {sojourn_ms:duration}, under the target of {target_ms:duration}",
        "valve.standing": "work waits {sojourn_ms:duration}, the target is {target_ms:duration}: so for "
        "{standing_ms:duration}, acted on after {interval_ms:duration}",
        "valve.dwell": "work waits {sojourn_ms:duration}, the target is {target_ms:duration}, but the valve opened "
        "{since_ms:duration} ago and stays as it is for {dwell_ms:duration}",
        "valve.shed_rate": "work waited {target_ms:duration} or more for {standing_ms:duration} and {depth} messages "
        "stand: admitting {admit_rate_milli_per_s:rate} of {done_rate_milli_per_s:rate} capacity drains them in "
        "{drain_ms:duration}",
        "valve.shed_share": "work waited {target_ms:duration} or more for {standing_ms:duration} and {depth} messages "
        "stand: admitting {fraction_ppm:percent}",
        "valve.close": "{depth} messages stand and cannot be drained within {drain_limit_ms:duration} at "
        "{done_rate_milli_per_s:rate} while anything is let in: closed, drained in {drain_ms:duration}",
        "valve.shedding": "{depth} messages stand and work waits {sojourn_ms:duration}: the limit stays, low water is "
        "{low_water}",
        "valve.limit_unused": "only {in_rate_milli_per_s:rate} come in: a limit of {admit_rate_milli_per_s:rate} that "
        "is not half used is not raised",
        "valve.adjust_rate": "{depth} messages stand where {planned_depth} were planned: the limit goes from "
        "{previous_milli_per_s:rate} to {admit_rate_milli_per_s:rate}",
        "valve.climb": "only {depth} messages stand though {in_rate_milli_per_s:rate} are let in, so more can be done: "
        "the limit climbs from {previous_milli_per_s:rate} to {admit_rate_milli_per_s:rate}",
        "valve.adjust_share": "work waits {sojourn_ms:duration}, the target is {target_ms:duration}: admitting "
        "{fraction_ppm:percent} after {previous_ppm:percent}",
        "valve.drained": "{depth} messages stand, fewer than {short_depth}, which the target allows: drained after "
        "{drained_ms:duration}, promised were {drain_ms:duration}",
        "valve.promise_missed": "{depth} messages stand, over the {short_depth} that the target allows, though "
        "{promised_ms:duration} were promised: {drain_ms:duration} more",
        "valve.promise_again": "work waited {target_ms:duration} or more for {standing_ms:duration} while shedding: "
        "admitting {admit_rate_milli_per_s:rate} of {done_rate_milli_per_s:rate} capacity drains {depth} messages in "
        "{drain_ms:duration}",
        "valve.only_stuck": "{stuck_depth} of {depth} messages do not move; what moves was drained as promised",
        "valve.not_due": "the promise to drain is not due",
        "valve.draining": "closed: {depth} messages stand, low water is {low_water}, calm for {calm_intervals} "
        "intervals",
        "valve.probe": "calm for {calm_intervals} intervals, {depth} messages stand under low water {low_water}: "
        "letting {fraction_ppm:percent} through to see",
        "valve.probing": "letting {fraction_ppm:percent} through: work waits {sojourn_ms:duration}, {depth} messages "
        "stand",
        "valve.probe_doubled": "a clean interval at {previous_ppm:percent}: letting {fraction_ppm:percent} through",
        "valve.probe_bad": "a bad interval at {fraction_ppm:percent}: the valve goes back as soon as it may turn",
        "valve.back_off_rate": "a bad interval at {fraction_ppm:percent}: back to {admit_rate_milli_per_s:rate}, "
        "drained in {drain_ms:duration}, next probe in {probe_wait_ms:duration} at the soonest",
        "valve.back_off_share": "a bad interval at {fraction_ppm:percent}: back to admitting {admit_ppm:percent}, next "
        "probe in {probe_wait_ms:duration} at the soonest",
        "valve.back_off_closed": "a bad interval at {fraction_ppm:percent}: closed again, drained in "
        "{drain_ms:duration}, next probe in {probe_wait_ms:duration} at the soonest",
        "valve.reopen": "{calm_intervals} calm intervals, the last with everything let through, {depth} messages stand "
        "under low water {low_water}: open",
        "valve.no_work_done": "no work was finished, so that nothing was measured",
        "valve.unconcerned": "the queue is judged as before",
    }
)
