"""What is changed at a workload: what the patch names and nothing else, once, and given back as it was."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.json_patch import PatchFailedError, apply_patch, merge

from governors.outbox.executors import Refused
from governors.outbox.kubernetes_changes import (
    ACTION,
    BAD_TEMPLATES,
    REPLICAS_BEFORE,
    REPLICAS_LEFT,
    Change,
    RolledBack,
    Scaled,
    Wanted,
    annotations,
    give_back,
    hold,
    resume,
    scale_down,
    undo,
)

NAMES = st.text("abc~/.-", min_size=1, max_size=8)
OURS = "governors/"


def template(tag: str) -> dict[str, Any]:
    return {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "main", "image": f"web:{tag}"}]}}


@st.composite
def deployments(draw: st.DrawFn) -> dict[str, Any]:
    notes = draw(st.none() | st.dictionaries(NAMES.filter(lambda name: not name.startswith(OURS)), st.text(max_size=5)))
    metadata: dict[str, Any] = {
        "name": "web",
        "uid": "u",
        "resourceVersion": str(draw(st.integers(1, 99))),
        "generation": 3,
    }
    spec: dict[str, Any] = {"selector": {"matchLabels": {"app": "web"}}, "template": template("v3")}
    replicas, paused = draw(st.none() | st.integers(0, 9)), draw(st.sampled_from([None, False, True]))
    if notes is not None:
        metadata["annotations"] = notes
    if replicas is not None:
        spec["replicas"] = replicas
    if paused is not None:
        spec["paused"] = paused
    return {"metadata": metadata, "spec": spec, "status": {}}


def replica_set(number: int, tag: str, *, replicas: int = 0, available: int = 0) -> dict[str, Any]:
    theirs = template(tag)
    theirs["metadata"]["labels"]["pod-template-hash"] = f"h{number}"
    return {
        "metadata": {
            "labels": {"app": "web", "pod-template-hash": f"h{number}"},
            "annotations": {"deployment.kubernetes.io/revision": str(number)},
            "ownerReferences": [{"uid": "u", "controller": True}],
        },
        "spec": {"replicas": replicas, "template": theirs},
        "status": {"availableReplicas": available},
    }


def applied(workload: dict[str, Any], change: object) -> dict[str, Any]:
    assert isinstance(change, Change)
    changed: dict[str, Any] = apply_patch(workload, change.patch)
    return changed


def bare(workload: dict[str, Any], *without: str) -> dict[str, Any]:
    """Without what the changes are about."""
    rest = copy.deepcopy(workload)
    others = {name: value for name, value in annotations(rest).items() if not name.startswith((OURS, "kubernetes.io/"))}
    rest["metadata"]["annotations"] = others
    for name in without:
        rest["spec"].pop(name, None)
    return rest


@given(deployments(), st.integers(0, 5))
def test_a_stop_and_its_restore_leave_a_workload_as_it_was(workload: dict[str, Any], left: int) -> None:
    stop = scale_down(workload, "act-1", left)
    stopped = applied(workload, stop)
    assert isinstance(stop.goal, Scaled)
    assert stop.goal.replicas == stopped["spec"].get("replicas", 1) <= max(left, 0) or not stop.patch
    assert bare(stopped, "replicas") == bare(workload, "replicas")
    back = give_back(stopped, "act-2")
    restored = applied(stopped, back) if isinstance(back, Change) else stopped
    assert restored["spec"].get("replicas", 1) == workload["spec"].get("replicas", 1)
    assert bare(restored, "replicas") == bare(workload, "replicas")
    assert not {REPLICAS_BEFORE, REPLICAS_LEFT} & {*annotations(restored)}


@given(deployments())
def test_a_hold_and_its_resume_leave_a_workload_as_it_was(workload: dict[str, Any]) -> None:
    held = applied(workload, hold(workload, "act-1"))
    assert held["spec"]["paused"] is True
    assert bare(held, "paused") == bare(workload, "paused")
    again = resume(held, "act-2")
    resumed = applied(held, again) if isinstance(again, Change) else held
    assert bool(resumed["spec"].get("paused")) is bool(workload["spec"].get("paused"))
    assert bare(resumed, "paused") == bare(workload, "paused")


@given(deployments(), st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=2, max_size=2), st.booleans())
def test_a_rollback_changes_the_template_and_nothing_else_and_never_to_one_that_fails(
    workload: dict[str, Any], pods: list[tuple[int, int]], bad: bool
) -> None:
    if bad:
        workload["metadata"].setdefault("annotations", {})[BAD_TEMPLATES] = "h2"
    older = [
        replica_set(number + 1, f"v{number + 1}", replicas=a, available=min(a, b)) for number, (a, b) in enumerate(pods)
    ]
    sets = [*older, replica_set(3, "v3")]
    change = undo("Deployment", workload, workload, sets, Wanted("act-1", "d", "r", "q", "why"))
    healthy = [
        number + 1 for number, (a, b) in enumerate(pods) if not (a and not min(a, b)) and not (bad and number == 1)
    ]
    if isinstance(change, Refused):
        assert not healthy or workload["spec"].get("paused")
        return
    after = applied(workload, change)
    assert isinstance(change.goal, RolledBack)
    assert change.goal.hash == f"h{max(healthy)}"
    assert after["spec"]["template"] == template(f"v{max(healthy)}")
    assert bare(after, "template") == bare(workload, "template")
    assert "h3" in annotations(after)[BAD_TEMPLATES].split(",")


@given(deployments(), st.sampled_from(["hold", "resume", "stop", "restore", "rollback"]))
def test_a_patch_changes_what_was_read_or_nothing(workload: dict[str, Any], kind: str) -> None:
    workload["metadata"].setdefault("annotations", {}).update({REPLICAS_BEFORE: "4", REPLICAS_LEFT: "1"})
    wanted = Wanted("act-1", "d", "r", "q", "")
    changes: dict[str, Callable[[], object]] = {
        "hold": lambda: hold(workload, "act-1"),
        "resume": lambda: resume(workload, "act-1"),
        "stop": lambda: scale_down(workload, "act-1", 0),
        "restore": lambda: give_back(workload, "act-1"),
        "rollback": lambda: undo("Deployment", workload, workload, [replica_set(1, "v1")], wanted),
    }
    change = changes[kind]()
    if not isinstance(change, Change) or not change.patch:
        return
    assert annotations(applied(workload, change))[ACTION] == "act-1"
    newer = copy.deepcopy(workload)
    newer["metadata"]["resourceVersion"] += "0"
    with pytest.raises(PatchFailedError, match="resourceVersion"):
        apply_patch(newer, change.patch)


@given(deployments())
def test_an_action_that_has_changed_a_workload_changes_it_no_second_time(workload: dict[str, Any]) -> None:
    assert hold(applied(workload, hold(workload, "a")), "a").patch == ()
    assert scale_down(applied(workload, scale_down(workload, "a", 0)), "a", 0).patch == ()


@pytest.mark.parametrize(
    ("document", "patch", "expected"),
    [  # RFC 6902, appendix A
        ({"foo": "bar"}, [{"op": "add", "path": "/baz", "value": "qux"}], {"foo": "bar", "baz": "qux"}),
        ({"foo": ["a", "b"]}, [{"op": "add", "path": "/foo/1", "value": "x"}], {"foo": ["a", "x", "b"]}),
        ({"foo": ["a"]}, [{"op": "add", "path": "/foo/-", "value": ["b"]}], {"foo": ["a", ["b"]]}),
        ({"baz": 1, "foo": 2}, [{"op": "remove", "path": "/baz"}], {"foo": 2}),
        ({"foo": ["a", "b", "c"]}, [{"op": "remove", "path": "/foo/1"}], {"foo": ["a", "c"]}),
        ({"baz": 1}, [{"op": "replace", "path": "/baz", "value": 2}], {"baz": 2}),
        ({"/": 9, "~1": 10}, [{"op": "test", "path": "/~01", "value": 10}], {"/": 9, "~1": 10}),
        ({"baz": "qux"}, [{"op": "test", "path": "/baz", "value": "bar"}], None),
        ({"foo": "bar"}, [{"op": "add", "path": "/baz/bat", "value": "qux"}], None),
        ({"foo": "bar"}, [{"op": "replace", "path": "/baz", "value": "qux"}], None),
        ({"foo": "bar"}, [{"op": "remove", "path": "/baz"}], None),
    ],
)
def test_the_stand_in_applies_json_patches_as_the_text_has_it(document: Any, patch: Any, expected: Any) -> None:
    if expected is None:
        with pytest.raises(PatchFailedError):
            apply_patch(document, patch)
    else:
        assert apply_patch(document, patch) == expected


@pytest.mark.parametrize(
    ("document", "patch", "expected"),
    [  # RFC 7396, appendix A
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
    ],
)
def test_the_stand_in_applies_merge_patches_as_the_text_has_it(document: Any, patch: Any, expected: Any) -> None:
    assert merge(document, patch) == expected
