"""The status: what it says, and when it is written."""

from dataclasses import replace

import pytest
from planned_world import NOW, PlannedWorld, pipeline, settle

from forebay.planning import reconciling, reporting
from forebay.planning.by_lag import Measured
from forebay.planning.pods import PodState, Trouble
from forebay.planning.reporting import Condition, Report, amount, duration, rounded

EVEN = {"lag": "10", "behind": "1s", "rate": "200/s"}


def told(world: PlannedWorld, **changes) -> Report:
    seen = replace(world.seen(), **changes)
    plan = reconciling.plan(world.pipeline, seen, NOW)
    return reporting.report(
        world.pipeline, seen, plan, generation=1, numbers=reporting.numbers_of(seen.measured.values(), None)
    )


def running(world: PlannedWorld) -> PlannedWorld:
    """Every workload as its controller leaves it when all is well."""
    for body in world.live.values():
        replicas = body.get("spec", {}).get("replicas")
        if replicas is not None:
            body["status"] = {"replicas": replicas, "readyReplicas": replicas, "updatedReplicas": replicas}
    return world


def condition(report: Report, kind: str) -> Condition:
    return next(found for found in report.conditions if found.type == kind)


def test_a_running_pipeline_is_ready():
    report = told(running(settle(PlannedWorld(pipeline()))))

    assert report.is_ready
    assert report.facts["why"] == "Running"
    assert (report.facts["replicas"], report.facts["topics"]) == ("3/3", "6/6")


def test_ready_takes_the_words_of_what_keeps_it():
    world = running(settle(PlannedWorld(pipeline())))
    world.kafka = Trouble("KafkaUnreachable", "cannot reach Kafka at kafka:9092")
    report = told(world)

    assert condition(report, "Ready") == Condition(
        "Ready", "Unknown", "KafkaUnreachable", "cannot reach Kafka at kafka:9092"
    )
    assert report.facts["why"] == "KafkaUnreachable"


@pytest.mark.parametrize(
    ("changes", "kind", "reason", "message"),
    [
        (
            {"secrets": ("Secret x does not exist: create it",)},
            "CredentialsReady",
            "SecretsIncomplete",
            "Secret x does",
        ),
        ({"manifests": Trouble("ChartRefuses", "no")}, "WorkloadsReady", "ChartRefuses", "no"),
    ],
)
def test_each_aspect_names_cause_and_cure(changes, kind, reason, message):
    found = condition(told(running(settle(PlannedWorld(pipeline()))), **changes), kind)

    assert (found.status, found.reason) == ("False", reason)
    assert message in found.message


def test_a_crashing_pod_speaks_for_its_stage():
    world = running(settle(PlannedWorld(pipeline())))
    trouble = Trouble("CrashLoopBackOff", "exit code 1: no such module")
    world.pods = [PodState("sensors-enrich-0", "enrich", False, False, "r", trouble)]
    report = told(world)

    assert condition(report, "WorkloadsReady").message == (
        "pod sensors-enrich-0: CrashLoopBackOff: exit code 1: no such module"
    )
    stage = next(stage for stage in report.facts["stages"] if stage["name"] == "enrich")
    assert (stage["reason"], stage["message"]) == ("CrashLoopBackOff", "exit code 1: no such module")


def test_a_rollout_that_is_under_way_is_no_success():
    world = running(settle(PlannedWorld(pipeline())))
    for body in world.live.values():
        if body["kind"] == "StatefulSet":
            body["status"] |= {"currentRevision": "a", "updateRevision": "b", "updatedReplicas": 0}

    found = condition(told(world), "WorkloadsReady")
    assert (found.reason, found.message) == ("Progressing", "not yet rolled out and ready: devices, enrich")


def test_falling_behind_is_told_and_is_no_failure_of_the_deployment():
    world = running(settle(PlannedWorld(pipeline(low=1, high=1))))
    world.pipeline = pipeline(low=1, high=2)
    world.measured = {"enrich": Measured(100, 99.0, group="STABLE"), "store": Measured(20, 1.0, group="STABLE")}
    world.live = {
        key: body | {"spec": body["spec"] | {"replicas": 2}} if key.name == "sensors-enrich" else body
        for key, body in world.live.items()
    }
    report = told(running(settle(world)))

    assert report.is_ready
    assert condition(report, "Scaling").status == "False"
    assert report.facts["why"] == "AtMaximum"
    assert report.numbers == {"lag": "120", "behind": "99s"}


def test_one_unknown_lag_makes_the_sum_unknown():
    world = running(settle(PlannedWorld(pipeline())))
    world.measured = {"enrich": Measured(5, 1.0), "store": Measured()}

    assert told(world).numbers == {}


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (7, "7"), (0.34, "0.34"), (43.2, "43"), (123, "120"), (999, "1k"), (1234, "1.2k"), (12_345, "12k"),
     (123_456, "120k"), (1_900_000, "1.9M"), (35e6, "35M"), (2.5e9, "2.5G")],
)  # fmt: skip
def test_amounts_have_two_digits(number, text):
    assert amount(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.4, "0s"), (4, "4s"), (43, "43s"), (119, "120s"), (180, "3m"), (7_300, "2h"), (180_000, "2d")],
)
def test_durations_are_rough(seconds, text):
    assert duration(seconds) == text


def test_numbers_that_flicker_round_to_the_same():
    assert {rounded(number) for number in (198.2, 199.9, 201.3, 204.0)} == {200.0}


def report(**changes) -> Report:
    plain = Report(
        generation=3,
        conditions=(Condition("Ready", "True", "Running", "fine"),),
        numbers=EVEN,
        facts={"why": "Running"},
    )
    return replace(plain, **changes)


def written(wanted: Report, *, at: str = "2026-01-01T00:00:00Z") -> dict:
    patch = reporting.status_patch({}, wanted, now=at, written_s=1e9)
    assert patch is not None
    return patch["status"]


@pytest.mark.parametrize(
    ("shown", "fresh", "is_kept"),
    [(700, 600, True), (700, 400, False), (1, 3, True), (1, 4, False), (0, 1, False), (1, 0, False), (0, 0, True)],
)
def test_numbers_that_swing_at_even_load_stay(shown, fresh, is_kept):
    assert (reporting.steady({"lag": shown}, {"lag": fresh}) == {"lag": shown}) is is_kept


def test_a_number_that_is_unknown_now_is_not_shown():
    assert reporting.steady({"lag": 5.0, "rate": 1.0}, {"rate": 1.0}) == {"rate": 1.0}


def test_what_is_older_than_the_memory_is_told_as_at_least():
    world = running(settle(PlannedWorld(pipeline())))
    world.measured = {"enrich": Measured(5, 180.0, is_at_least=True), "store": Measured(0, 0.0)}

    assert told(world).numbers["behind"] == ">3m"


def test_nothing_new_is_not_written():
    assert reporting.status_patch(written(report()), report(), now="later", written_s=1e9) is None


def test_numbers_wait_half_a_minute_and_conditions_do_not():
    before = written(report())
    grown = report(numbers=EVEN | {"lag": "20"})
    failed = report(conditions=(Condition("Ready", "False", "Conflict", "no"),), numbers=EVEN | {"lag": "20"})

    assert reporting.status_patch(before, grown, now="later", written_s=29) is None
    patch = reporting.status_patch(before, failed, now="later", written_s=0)
    assert patch is not None
    assert patch["status"]["conditions"][0]["reason"] == "Conflict"


@pytest.mark.parametrize(("reason", "is_written"), [("Behind", False), ("AtMaximum", True)])
def test_sentences_with_numbers_wait_too_and_reasons_do_not(reason, is_written):
    """Else every round of a stage that falls behind would write."""

    def behind(reason: str, seconds: int) -> Report:
        sentence = f"{seconds} s behind"
        return report(
            conditions=(Condition("Scaling", "True", reason, sentence),),
            facts={"stages": [{"name": "enrich", "reason": reason, "message": sentence}]},
        )

    before = written(behind("Behind", 15))
    patch = reporting.status_patch(before, behind(reason, 16), now="later", written_s=29)

    assert (patch is not None) is is_written


def test_due_numbers_are_written():
    patch = reporting.status_patch(written(report()), report(numbers=EVEN | {"lag": "20"}), now="x", written_s=31)

    assert patch == {"status": {"lag": "20"}}


def test_a_number_that_became_unknown_is_taken_back():
    patch = reporting.status_patch(written(report()), report(numbers={"rate": "200/s"}), now="x", written_s=31)

    assert patch == {"status": {"lag": None, "behind": None}}


def test_transitions_keep_their_time_until_the_status_flips():
    before = written(report(), at="2026-01-01T00:00:00Z")
    other_words = report(conditions=(Condition("Ready", "True", "Running", "still fine"),))
    flipped = report(conditions=(Condition("Ready", "False", "Conflict", "no"),))

    def since(wanted: Report) -> str:
        patch = reporting.status_patch(before, wanted, now="2026-01-02T00:00:00Z", written_s=0)
        assert patch is not None
        return patch["status"]["conditions"][0]["lastTransitionTime"]

    assert since(other_words) == "2026-01-01T00:00:00Z"
    assert since(flipped) == "2026-01-02T00:00:00Z"


def test_the_ledger_is_read_as_it_is_written():
    patch = reporting.ledger_patch({"b": "2", "a": "1"})

    assert reporting.ledger(patch["status"]) == {"a": "1", "b": "2"}


def test_messages_of_many_problems_stay_readable():
    found = reporting.invalid(1, [f"problem {number}" for number in range(50)]).conditions[0]

    assert found.message.endswith("problem 19; and 30 more")
