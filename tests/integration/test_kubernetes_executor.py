"""Orders at a Kubernetes API server's stand-in: what is changed, what is read back, and what each answer means."""

import asyncio
import copy
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.api_server import ApiServer, Fault
from support.certificates import Authority
from support.cluster import DEPLOYMENTS, HASH, ROLLOUTS, Cluster, Key

from governors.machines.overlays import OpenAction
from governors.outbox import kubernetes
from governors.outbox.configured import executors_of
from governors.outbox.executors import Answer, Done, Executor, Order, Refused, TryAgain
from governors.outbox.kubernetes_changes import ACTION, BAD_TEMPLATES, PAUSED_BY, REPLICAS_BEFORE
from governors.settings import ActionSettings, KubernetesSettings, SettingsError, WorkloadSettings
from governors.tenants.tenant import OpenWork

NOW_US = 1_795_348_800_000_000
ROLES = Path(__file__).parents[2] / "deploy/k8s/executor"
V1, V2, BAD = "registry/web:v1", "registry/web:v2", "registry/web:bad-3"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    """With no more rights than the shipped Role has."""
    # A controller's step comes with each look: nobody has to wait for one.
    monkeypatch.setattr(kubernetes, "LOOK_EVERY_S", 0.001)
    monkeypatch.setattr(kubernetes, "WATCH_S", 0.5)
    with ApiServer(rules=shipped("deployments")).listening() as listening:
        yield listening


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("token-1\n")
    return path


def shipped(kind: str) -> list[Mapping[str, Any]]:
    role = yaml.safe_load((ROLES / kind / "role.yaml").read_text(encoding="utf-8"))
    return list(role["rules"])


def order(
    kind: str = "rollback",
    number: int = 7,
    /,
    *,
    deploy: str = "d-2",
    revision: str = "bad-3",
    to: str = "v2",
    **params: int | str,
) -> Order:
    given: dict[str, int | str] = {"fraction_ppm": 100_000} if kind == "throttle" else {}
    if kind in {"rollback", "hold_rollout", "resume_rollout"}:
        given = {"deploy_id": deploy, "revision": revision}
    if kind == "rollback":
        given |= {"to": to, "attempt": 1}
    action = OpenAction(f"act-0123456789abcdef-{number}", kind, given | params, None)
    work = OpenWork("acme", "k", "rollback_guard", "web", action, 12)
    return Order(work, "0:12", "ab" * 32, NOW_US, "5 % of requests fail, 0.5 % before")


def executor(server: ApiServer, token_file: Path | None, ca_file: Path | None = None, **workload: Any) -> Executor:
    rule = WorkloadSettings(**{"namespace": "shop", **workload})
    cluster = KubernetesSettings(server=server.url, token_file=token_file, ca_file=ca_file, workloads=(rule,))
    return executors_of(ActionSettings(kubernetes=cluster), lambda: NOW_US, "worker")[0]


async def until_ended(asked: Executor, what: Order, attempts: int = 20) -> Answer:
    """As the outbox does it, without its pauses."""
    for _ in range(attempts):
        answer = await asked.execute(what)
        if not isinstance(answer, TryAgain):
            break
    return answer


def notes(server: ApiServer, key: Key) -> dict[str, str]:
    return dict(server.cluster.objects[key]["metadata"].get("annotations", {}))


def change_by_hand(cluster: Cluster, key: Key, **spec: object) -> None:
    """As a person does it who knows nothing of governors."""
    changed = copy.deepcopy(cluster.objects[key])
    changed["spec"] |= spec
    cluster.touch(key, changed)


def running_bad(cluster: Cluster) -> Key:
    """A third version that does not work, halfway out."""
    key = cluster.deployment("web", V1)
    cluster.deploy(key, V2)
    cluster.deploy(key, BAD, steps=3)
    return key


# Undo


async def test_a_rollback_goes_to_the_last_healthy_template_and_waits_until_its_pods_are_there(
    server: ApiServer, token_file: Path
) -> None:
    key = running_bad(server.cluster)
    before = copy.deepcopy(server.cluster.objects[key])
    answer = await executor(server, token_file).execute(order())
    assert isinstance(answer, Done)
    assert answer.detail.startswith("Deployment shop/web: rolled back from revision 3")
    assert answer.detail.endswith("3 of 3 replicas are available")
    after = server.cluster.objects[key]
    assert server.cluster.image(key) == V2
    assert HASH[DEPLOYMENTS] not in after["spec"]["template"]["metadata"]["labels"]
    # Nothing else was touched.
    assert {**after["spec"], "template": None} == {**before["spec"], "template": None}
    status = after["status"]
    assert status["observedGeneration"] == after["metadata"]["generation"]
    assert (status["replicas"], status["updatedReplicas"], status["availableReplicas"]) == (3, 3, 3)
    newest = server.cluster.replica_sets(key)[0]
    assert newest["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "4"
    assert newest["spec"]["replicas"] == 3
    assert notes(server, key)[ACTION] == "act-0123456789abcdef-7"
    assert "5 % of requests fail" in notes(server, key)["kubernetes.io/change-cause"]


async def test_what_failed_itself_or_was_rolled_back_from_is_nothing_to_go_back_to(
    server: ApiServer, token_file: Path
) -> None:
    key = running_bad(server.cluster)
    asked = executor(server, token_file)
    assert isinstance(await asked.execute(order()), Done)
    # v2 turns out to be bad too: not to the one that was rolled back from, though it is the one before.
    answer = await asked.execute(order("rollback", 9, deploy="d-3", revision="v2", to="unheard-of"))
    assert isinstance(answer, Done)
    assert server.cluster.image(key) == V1
    assert len(notes(server, key)[BAD_TEMPLATES].split(",")) == 2


async def test_a_template_that_still_has_only_pods_that_fail_is_passed_over(
    server: ApiServer, token_file: Path
) -> None:
    key = server.cluster.deployment("web", V1)
    server.cluster.deploy(key, BAD, steps=2)
    server.cluster.deploy(key, "registry/web:v4", steps=1)
    assert isinstance(await until_ended(executor(server, token_file), order(revision="v4", to="")), Done)
    assert server.cluster.image(key) == V1


async def test_the_template_that_the_deploy_names_comes_before_the_one_before(
    server: ApiServer, token_file: Path
) -> None:
    key = running_bad(server.cluster)
    assert isinstance(await executor(server, token_file).execute(order(to="v1")), Done)
    assert server.cluster.image(key) == V1


async def test_without_an_earlier_template_there_is_nothing_to_go_back_to(server: ApiServer, token_file: Path) -> None:
    key = server.cluster.deployment("web", BAD)
    before = copy.deepcopy(server.cluster.objects[key])
    answer = await executor(server, token_file).execute(order(to=""))
    assert answer == Refused("Deployment shop/web: there is nothing to go back to: it has no earlier ReplicaSet")
    assert server.cluster.objects[key]["spec"] == before["spec"]


async def test_without_a_healthy_template_there_is_nothing_to_go_back_to(server: ApiServer, token_file: Path) -> None:
    key = server.cluster.deployment("web", "registry/web:bad-1")
    server.cluster.deploy(key, BAD, steps=1)
    answer = await executor(server, token_file).execute(order(to=""))
    assert isinstance(answer, Refused)
    assert "nothing healthy to go back to: revision 1" in answer.detail
    assert server.cluster.image(key) == BAD


async def test_a_second_attempt_of_one_action_finds_it_done(server: ApiServer, token_file: Path) -> None:
    key = running_bad(server.cluster)
    asked = executor(server, token_file)
    server.faults.append(Fault("patch", 0, landed=True))
    lost = await asked.execute(order())
    assert isinstance(lost, TryAgain)
    assert lost.maybe
    generation = server.cluster.objects[key]["metadata"]["generation"]
    assert isinstance(await asked.execute(order()), Done)
    assert isinstance(await asked.execute(order()), Done)
    assert server.cluster.image(key) == V2
    assert server.cluster.objects[key]["metadata"]["generation"] == generation
    assert sum(call.startswith("PATCH") for call in server.calls) == 1


async def test_another_action_for_the_same_deploy_goes_back_no_second_time(server: ApiServer, token_file: Path) -> None:
    key = running_bad(server.cluster)
    asked = executor(server, token_file)
    for number in (7, 8):
        # Whatever the deploy system calls its revisions.
        assert isinstance(await asked.execute(order("rollback", number, revision="r-41", to="r-40")), Done)
    assert server.cluster.image(key) == V2


async def test_what_a_person_has_rolled_back_already_is_done(server: ApiServer, token_file: Path) -> None:
    key = running_bad(server.cluster)
    server.cluster.deploy(key, V2)
    answer = await executor(server, token_file).execute(order())
    assert isinstance(answer, Done)
    assert "it runs v2 already" in answer.detail
    assert server.cluster.image(key) == V2
    assert not any(call.startswith("PATCH") for call in server.calls)


async def test_what_somebody_has_deployed_since_is_left_alone(server: ApiServer, token_file: Path) -> None:
    key = running_bad(server.cluster)
    server.cluster.deploy(key, "registry/web:v4-fixed")
    answer = await executor(server, token_file).execute(order())
    assert isinstance(answer, Refused)
    assert "somebody else has deployed since" in answer.detail
    assert server.cluster.image(key) == "registry/web:v4-fixed"


async def test_a_rollback_that_somebody_changes_on_its_way_is_said_so(server: ApiServer, token_file: Path) -> None:
    key = running_bad(server.cluster)
    asked = executor(server, token_file)
    server.faults.append(Fault("patch", 0, landed=True))
    await asked.execute(order())
    server.cluster.deploy(key, "registry/web:v5")
    answer = await asked.execute(order())
    assert isinstance(answer, Refused)
    assert "somebody else has changed its template since" in answer.detail
    assert server.cluster.image(key) == "registry/web:v5"


async def test_what_is_under_way_is_no_success(
    server: ApiServer, token_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes, "WATCH_S", 0.0)
    running_bad(server.cluster)
    asked = executor(server, token_file)
    answer = await asked.execute(order())
    assert isinstance(answer, TryAgain)
    assert "under way" in answer.detail
    assert (answer.maybe, answer.ails) == (True, False)
    assert isinstance(await until_ended(asked, order()), Done)


async def test_a_rollback_onto_pods_that_never_come_up_is_never_done(
    server: ApiServer, token_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes, "WATCH_S", 0.0)
    key = server.cluster.deployment("web", "registry/web:v1")
    server.cluster.deploy(key, V2)
    # The image of v1 is gone meanwhile: its pods will not come up any more.
    for replica_set in server.cluster.replica_sets(key):
        changed = copy.deepcopy(replica_set)
        container = changed["spec"]["template"]["spec"]["containers"][0]
        if container["image"] == V1:
            container["image"] = "registry/web:bad-v1"
            server.cluster.touch(("replicasets.apps", "shop", changed["metadata"]["name"]), changed)
    answer = await until_ended(executor(server, token_file), order(revision="v2", to=""))
    assert isinstance(answer, TryAgain)
    assert "under way" in answer.detail


async def test_a_rollback_ends_a_pause_of_ours_and_respects_one_that_is_not(
    server: ApiServer, token_file: Path
) -> None:
    key = running_bad(server.cluster)
    asked = executor(server, token_file)
    assert isinstance(await asked.execute(order("hold_rollout", 6)), Done)
    assert isinstance(await asked.execute(order()), Done)
    assert "paused" not in server.cluster.objects[key]["spec"]
    assert PAUSED_BY not in notes(server, key)

    server.cluster.deploy(key, "registry/web:bad-4", steps=2)
    change_by_hand(server.cluster, key, paused=True)
    answer = await asked.execute(order("rollback", 9, deploy="d-3", revision="bad-4"))
    assert isinstance(answer, Refused)
    assert "paused, and not by us" in answer.detail


# Hold and resume


async def test_a_hold_stops_a_rollout_where_it_is_and_a_resume_lets_it_go_on(
    server: ApiServer, token_file: Path
) -> None:
    key = server.cluster.deployment("web", V1)
    server.cluster.deploy(key, V2, steps=1)
    asked = executor(server, token_file)
    assert isinstance(await asked.execute(order("hold_rollout")), Done)
    server.cluster.steps(key)
    assert server.cluster.objects[key]["status"]["updatedReplicas"] < 3
    assert isinstance(await asked.execute(order("resume_rollout", 8)), Done)
    server.cluster.steps(key)
    assert server.cluster.objects[key]["status"]["updatedReplicas"] == 3
    assert PAUSED_BY not in notes(server, key)


async def test_a_pause_of_somebody_else_is_found_and_left(server: ApiServer, token_file: Path) -> None:
    key = server.cluster.deployment("web", V1)
    change_by_hand(server.cluster, key, paused=True)
    asked = executor(server, token_file)
    assert isinstance(await asked.execute(order("hold_rollout")), Done)
    assert isinstance(await asked.execute(order("resume_rollout", 8)), Done)
    assert server.cluster.objects[key]["spec"]["paused"] is True


# Scale


async def test_a_stop_scales_down_and_a_restore_gives_back_what_was_there(server: ApiServer, token_file: Path) -> None:
    key = server.cluster.deployment("web", V1, replicas=4)
    asked = executor(server, token_file, stop_replicas=0)
    assert isinstance(await asked.execute(order("stop")), Done)
    assert server.cluster.objects[key]["spec"]["replicas"] == 0
    assert server.cluster.objects[key]["status"]["replicas"] == 0
    assert isinstance(await asked.execute(order("stop", 8)), Done)
    assert isinstance(await asked.execute(order("restore", 9)), Done)
    assert server.cluster.objects[key]["status"]["availableReplicas"] == 4
    assert REPLICAS_BEFORE not in notes(server, key)
    assert await asked.execute(order("restore", 10)) == Done(
        "Deployment shop/web: nothing was taken from it", proof="read_back"
    )


async def test_a_throttle_behind_a_stop_gives_the_pods_back_that_it_lets_requests_through_to(
    server: ApiServer, token_file: Path
) -> None:
    key = server.cluster.deployment("web", V1, replicas=4)
    asked = executor(server, token_file, stop_replicas=1)
    await asked.execute(order("stop"))
    assert server.cluster.objects[key]["spec"]["replicas"] == 1
    assert isinstance(await asked.execute(order("throttle", 8)), Done)
    assert server.cluster.objects[key]["spec"]["replicas"] == 4


async def test_what_somebody_scaled_since_a_stop_stays_as_it_is(server: ApiServer, token_file: Path) -> None:
    key = server.cluster.deployment("web", V1, replicas=4)
    asked = executor(server, token_file, stop_replicas=0)
    await asked.execute(order("stop"))
    change_by_hand(server.cluster, key, replicas=2)
    answer = await asked.execute(order("restore", 8))
    assert isinstance(answer, Done)
    assert "left so" in answer.detail
    assert server.cluster.objects[key]["spec"]["replicas"] == 2


async def test_a_repeated_stop_does_not_undo_what_a_person_did_in_between(server: ApiServer, token_file: Path) -> None:
    key = server.cluster.deployment("web", V1, replicas=4)
    asked = executor(server, token_file, stop_replicas=0)
    await asked.execute(order("stop"))
    change_by_hand(server.cluster, key, replicas=2)
    answer = await asked.execute(order("stop"))
    assert isinstance(answer, Refused)
    assert "somebody else has scaled it to 2 replicas since" in answer.detail


async def test_several_workloads_are_all_done_or_it_is_not_done(server: ApiServer, token_file: Path) -> None:
    keys = [server.cluster.deployment(name, V1) for name in ("web", "web-worker")]
    asked = executor(server, token_file, names=["{subject}", "{subject}-worker"], stop_replicas=0)
    server.faults.append(Fault("patch", 503))
    answer = await asked.execute(order("stop"))
    assert isinstance(answer, TryAgain)
    assert answer.maybe
    assert isinstance(await asked.execute(order("stop")), Done)
    assert [server.cluster.objects[key]["spec"]["replicas"] for key in keys] == [0, 0]


# Argo Rollouts


@pytest.mark.parametrize("has_status_resource", [True, False])
async def test_a_canary_is_aborted_and_its_template_is_taken_back(
    server: ApiServer, token_file: Path, has_status_resource: bool
) -> None:
    server.rules, server.has_status_resource = shipped("rollouts"), has_status_resource
    key = server.cluster.rollout("web", V1)
    server.cluster.deploy(key, BAD, steps=2)
    stable = server.cluster.objects[key]["status"]["stableRS"]
    answer = await executor(server, token_file, workload="Rollout").execute(order(to="v1"))
    assert isinstance(answer, Done)
    after = server.cluster.objects[key]
    assert server.cluster.image(key) == V1
    assert HASH[ROLLOUTS] not in after["spec"]["template"]["metadata"]["labels"]
    assert (after["status"]["currentPodHash"], after["status"]["stableRS"]) == (stable, stable)
    assert after["status"]["availableReplicas"] == 3
    patches = [call for call in server.calls if call.startswith("PATCH")]
    # Traffic first: the abort comes before the template.
    assert patches[0].endswith("/status")
    assert patches[-1].endswith("/web")


async def test_a_rollout_that_was_promoted_goes_to_the_template_before(server: ApiServer, token_file: Path) -> None:
    server.rules = shipped("rollouts")
    key = server.cluster.rollout("web", V1)
    server.cluster.deploy(key, BAD)
    server.cluster.promote(key)
    asked = executor(server, token_file, workload="Rollout")
    answer = await asked.execute(order(to="v1"))
    # As a canary, as its strategy has it: not before it is promoted is it done.
    assert isinstance(answer, TryAgain)
    assert server.cluster.image(key) == V1
    server.cluster.promote(key)
    assert isinstance(await asked.execute(order(to="v1")), Done)
    assert not any(call.endswith("/status") for call in server.calls)


async def test_a_rollout_that_refers_to_a_deployment_has_its_template_there(
    server: ApiServer, token_file: Path
) -> None:
    server.rules = shipped("rollouts")
    holder = server.cluster.deployment("web", V1, replicas=0)
    key = server.cluster.rollout("web", V1)
    referring = copy.deepcopy(server.cluster.objects[key])
    del referring["spec"]["template"]
    referring["spec"]["workloadRef"] = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}
    server.cluster.touch(key, referring)
    server.cluster.deploy(holder, BAD)
    server.cluster.steps(key, 2)
    assert isinstance(await executor(server, token_file, workload="Rollout").execute(order(to="v1")), Done)
    assert server.cluster.image(holder) == V1
    status = server.cluster.objects[key]["status"]
    assert status["currentPodHash"] == status["stableRS"]


async def test_a_rollout_is_held_resumed_and_scaled_as_a_deployment_is(server: ApiServer, token_file: Path) -> None:
    server.rules = shipped("rollouts")
    key = server.cluster.rollout("web", V1)
    asked = executor(server, token_file, workload="Rollout", stop_replicas=0)
    for kind, number in (("hold_rollout", 1), ("resume_rollout", 2), ("stop", 3), ("restore", 4)):
        assert isinstance(await asked.execute(order(kind, number)), Done)
    assert server.cluster.objects[key]["spec"]["replicas"] == 3
    assert "paused" not in server.cluster.objects[key]["spec"]


# Answers


async def test_a_conflict_is_an_answer_and_the_next_attempt_does_it(server: ApiServer, token_file: Path) -> None:
    key = running_bad(server.cluster)

    def scale_by_hand(cluster: Cluster) -> None:
        change_by_hand(cluster, key, replicas=5)

    server.before_patch = scale_by_hand
    asked = executor(server, token_file)
    answer = await asked.execute(order())
    assert answer == TryAgain("Deployment shop/web: it has changed meanwhile", maybe=False, ails=False)
    assert server.cluster.image(key) == BAD
    assert isinstance(await asked.execute(order()), Done)
    # Nothing of what the other hand did is lost.
    assert server.cluster.objects[key]["spec"]["replicas"] == 5


async def test_what_only_its_controller_has_changed_meanwhile_is_no_conflict(
    server: ApiServer, token_file: Path
) -> None:
    key = running_bad(server.cluster)
    # Pods come and go all the time in a rollout.
    server.before_patch = lambda cluster: cluster.step(key)
    assert isinstance(await executor(server, token_file).execute(order()), Done)
    assert server.cluster.image(key) == V2


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault("get", 429, headers={"retry-after": "7"}), TryAgain("", maybe=False, after_s=7.0)),
        (Fault("patch", 429, headers={"retry-after": "7"}), TryAgain("", maybe=False, after_s=7.0)),
        (Fault("get", 500), TryAgain("", maybe=False)),
        (Fault("patch", 500), TryAgain("", maybe=True)),
        (Fault("patch", 504, landed=True), TryAgain("", maybe=True)),
        (Fault("patch", 503), TryAgain("", maybe=False)),
        (Fault("patch", 409), TryAgain("", maybe=False, ails=False)),
        (Fault("list", 503), TryAgain("", maybe=False)),
        (Fault("get", 0), TryAgain("", maybe=False)),
        (Fault("patch", 0), TryAgain("", maybe=True)),
        (Fault("patch", 422), Refused("")),
        (Fault("patch", 400), Refused("")),
        (Fault("get", 302, headers={"location": "http://127.0.0.1:1/"}), Refused("")),
    ],
    ids=lambda one: f"{one.verb}-{one.status}" if isinstance(one, Fault) else "",
)
async def test_what_a_failed_call_means_and_that_a_later_attempt_does_it(
    server: ApiServer, token_file: Path, fault: Fault, expected: Answer
) -> None:
    key = running_bad(server.cluster)
    fault = dataclasses.replace(fault, verb="get" if fault.verb == "list" else fault.verb)
    server.faults.append(fault)
    asked = executor(server, token_file)
    answer = await asked.execute(order())
    assert answer.detail.startswith("Deployment shop/web: ")
    assert type(answer)(**{**{f: getattr(answer, f) for f in answer.__struct_fields__}, "detail": ""}) == expected
    assert isinstance(await asked.execute(order()), Done)
    assert server.cluster.image(key) == V2


async def test_a_read_that_fails_behind_a_change_leaves_it_open_whether_it_was_done(
    server: ApiServer, token_file: Path
) -> None:
    running_bad(server.cluster)
    asked = executor(server, token_file)

    def fail_the_next_look(_: Cluster) -> None:
        server.faults.append(Fault("get", 503))

    server.before_patch = fail_the_next_look
    answer = await asked.execute(order())
    assert isinstance(answer, TryAgain)
    assert answer.maybe
    assert isinstance(await asked.execute(order()), Done)


async def test_a_workload_that_is_not_there_and_a_kind_that_is_not_installed_are_refused(
    server: ApiServer, token_file: Path
) -> None:
    answer = await executor(server, token_file).execute(order())
    assert isinstance(answer, Refused)
    assert answer.detail.endswith('404: deployments.apps "web" not found')
    server.rules = shipped("rollouts")
    assert isinstance(await executor(server, token_file, workload="Rollout").execute(order()), Refused)


@pytest.mark.parametrize("missing", [0, 1])
async def test_each_permission_of_the_shipped_role_is_needed_and_its_absence_is_said(
    server: ApiServer, token_file: Path, missing: int
) -> None:
    running_bad(server.cluster)
    server.rules = [rule for number, rule in enumerate(shipped("deployments")) if number != missing]
    answer = await executor(server, token_file).execute(order())
    assert isinstance(answer, Refused)
    assert "is forbidden" in answer.detail
    assert "system:serviceaccount:governors:governors" in answer.detail


async def test_without_the_permission_to_change_nothing_is_changed(server: ApiServer, token_file: Path) -> None:
    key = running_bad(server.cluster)
    server.rules = [{"apiGroups": ["apps"], "resources": ["*"], "verbs": ["get", "list"]}]
    answer = await executor(server, token_file).execute(order())
    assert isinstance(answer, Refused)
    assert "cannot patch resource" in answer.detail
    assert server.cluster.image(key) == BAD


async def test_a_renewed_token_is_used_from_the_next_attempt_on(server: ApiServer, token_file: Path) -> None:
    key = running_bad(server.cluster)
    asked = executor(server, token_file)
    server.tokens = {"token-2"}
    answer = await asked.execute(order())
    assert isinstance(answer, TryAgain)
    assert "401" in answer.detail
    assert not answer.maybe
    await asyncio.to_thread(token_file.write_text, "token-2")
    assert isinstance(await asked.execute(order()), Done)
    assert server.cluster.image(key) == V2


async def test_a_server_that_is_not_there_is_asked_again(server: ApiServer, token_file: Path) -> None:
    gone = dataclasses.replace(server, url="http://127.0.0.1:1")
    answer = await executor(gone, token_file).execute(order())
    assert isinstance(answer, TryAgain)
    assert "cannot be reached" in answer.detail
    assert (answer.maybe, answer.ails) == (False, True)


async def test_over_tls_only_a_server_is_spoken_to_that_the_configured_authority_vouches_for(
    token_file: Path, tmp_path: Path
) -> None:
    import ssl  # noqa: PLC0415

    ours, other = Authority(), Authority("another")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*ours.issue().put(tmp_path))
    for name, authority in (("ours", ours), ("other", other)):
        (tmp_path / name).write_bytes(authority.certificate)
    with ApiServer().listening(tls=context) as server:
        key = running_bad(server.cluster)
        answer = await executor(server, token_file, tmp_path / "other").execute(order())
        assert isinstance(answer, TryAgain)
        assert "certificate" in answer.detail.lower()
        assert server.calls == []
        assert isinstance(await until_ended(executor(server, token_file, tmp_path / "ours"), order()), Done)
        assert server.cluster.image(key) == V2


# Which workload


@pytest.mark.parametrize(
    ("workload", "taken"),
    [
        ({}, {"rollback", "hold_rollout", "resume_rollout"}),
        ({"stop_replicas": 0}, {"rollback", "hold_rollout", "resume_rollout", "stop", "throttle", "restore"}),
        ({"stop_replicas": 0, "kinds": ["rollback"]}, {"rollback"}),
        ({"tenants": ["other"]}, set()),
        ({"governors": ["cost_guard"]}, set()),
        ({"subjects": ["api"]}, set()),
        ({"subjects": ["web"], "tenants": ["acme"], "kinds": ["hold_rollout"]}, {"hold_rollout"}),
    ],
)
def test_only_what_is_configured_and_can_be_done_to_a_workload_is_taken(
    server: ApiServer, token_file: Path, workload: dict[str, Any], taken: set[str]
) -> None:
    asked = executor(server, token_file, **workload)
    kinds = (
        "rollback",
        "hold_rollout",
        "resume_rollout",
        "stop",
        "throttle",
        "restore",
        "notify",
        "page",
        "shed",
        "ask",
    )
    assert {kind for kind in kinds if asked.takes(order(kind).work)} == taken


async def test_a_deploy_cannot_name_a_workload_that_is_not_configured_for_it(
    server: ApiServer, token_file: Path
) -> None:
    key = running_bad(server.cluster)
    other = server.cluster.deployment("payments", V1, namespace="bank")
    asked = executor(server, token_file)
    named: dict[str, Any]
    for named in (
        {"kind": "Deployment", "namespace": "bank", "name": "payments"},
        {"kind": "StatefulSet", "namespace": "shop", "name": "web"},
    ):
        answer = await asked.execute(order(**named))
        assert isinstance(answer, Refused)
        assert "the configuration only Deployment shop/web" in answer.detail
    assert server.calls == []
    assert (server.cluster.image(key), server.cluster.image(other)) == (BAD, V1)
    right: dict[str, Any] = {"kind": "deployment", "namespace": "shop", "name": "web"}
    assert isinstance(await asked.execute(order(**right)), Done)


async def test_a_name_that_cannot_be_one_is_refused_before_anybody_is_asked(
    server: ApiServer, token_file: Path
) -> None:
    asked = executor(server, token_file, namespace="{tenant}")
    odd = order()
    odd = Order(dataclasses.replace(odd.work, tenant="Acme/../kube-system"), "0:12", "", NOW_US, "")
    assert isinstance(await asked.execute(odd), Refused)
    assert server.calls == []


def test_a_namespace_that_is_not_configured_is_the_service_accounts_own(server: ApiServer, token_file: Path) -> None:
    with pytest.raises(SettingsError, match="namespace"):
        executor(server, token_file, namespace=None)
    token_file.with_name("namespace").write_text("shop")
    assert executor(server, token_file, namespace=None).takes(order().work)


def test_credentials_that_are_not_there_stop_the_start(server: ApiServer, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"actions\.kubernetes"):
        executor(server, tmp_path / "nothing")


async def test_in_a_dry_run_nobody_is_asked(server: ApiServer, token_file: Path) -> None:
    running_bad(server.cluster)
    rule = WorkloadSettings(namespace="shop")
    cluster = KubernetesSettings(server=server.url, token_file=token_file, ca_file=None, workloads=(rule,))
    asked = executors_of(ActionSettings(kubernetes=cluster, dry_run=True), lambda: NOW_US, "worker")[0]
    assert await asked.execute(order()) == Done("dry run: not sent")
    assert server.calls == []


def test_the_shipped_roles_allow_nothing_but_reading_and_changing_workloads() -> None:
    rules = [*shipped("deployments"), *shipped("rollouts")]
    assert {verb for rule in rules for verb in rule["verbs"]} == {"get", "list", "patch"}
    resources = {
        f"{resource}.{group}" for rule in rules for resource in rule["resources"] for group in rule["apiGroups"]
    }
    assert resources == {"deployments.apps", "replicasets.apps", "rollouts.argoproj.io", "rollouts/status.argoproj.io"}


@pytest.mark.parametrize("kind", ["deployments", "rollouts"])
def test_a_shipped_binding_gives_the_shipped_role_to_the_service_account(kind: str) -> None:
    resources = yaml.safe_load((ROLES / kind / "kustomization.yaml").read_text(encoding="utf-8"))["resources"]
    role, binding = (yaml.safe_load((ROLES / kind / name).read_text(encoding="utf-8")) for name in resources)
    assert binding["roleRef"] == {
        "apiGroup": "rbac.authorization.k8s.io",
        "kind": role["kind"],
        "name": role["metadata"]["name"],
    }
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "governors", "namespace": "governors"}]
