"""The status: what it says, and when it is written."""

from dataclasses import replace

import pytest
from planned_world import NOW, PlannedWorld, decision, pipeline, settle

from forebay.pipeline.spec import TLS, Sasl, SecretRef
from forebay.planning import reconciling, reporting
from forebay.planning.credentials import formats
from forebay.planning.credentials.checks import Problem
from forebay.planning.objects import ObjectKey
from forebay.planning.pods import PodState, Trouble
from forebay.planning.reconciling import Wanted
from forebay.planning.reporting import Condition, Report, amount, duration, rounded
from forebay.planning.scaling import Lasting

ENRICH = ObjectKey("StatefulSet", "sensors-enrich")
MISSING = Problem(secret="x", wrong="does not exist", cure="create it")
EXPIRED = Problem(secret="z", key="ca.crt", wrong="expired", cure="renew it")
SOON = Problem(secret="y", key="tls.crt", wrong="expires soon", cure="renew it", is_warning=True)
EVEN = {"lag": "10", "behind": "1s", "rate": "200/s"}


def told(world: PlannedWorld, **changes) -> Report:
    seen = replace(world.seen(), **changes)
    plan = reconciling.plan(world.pipeline, seen)
    figures = reporting.figures_of(world.pipeline, seen.decided, None)
    return reporting.report(world.pipeline, seen, plan, generation=1, figures=figures, now=NOW)


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
            {"secrets": (MISSING, SOON)},
            "CredentialsReady",
            "SecretsIncomplete",
            "Secret x does not exist: create it; key tls.crt of Secret y expires soon: renew it",
        ),
        (
            {"secrets": (EXPIRED,)},
            "CredentialsReady",
            "SecretsInvalid",
            "key ca.crt of Secret z expired: renew it",
        ),
        ({"manifests": Trouble("ChartRefuses", "no")}, "WorkloadsReady", "ChartRefuses", "no"),
    ],
)
def test_each_aspect_names_cause_and_cure(changes, kind, reason, message):
    found = condition(told(running(settle(PlannedWorld(pipeline()))), **changes), kind)

    assert (found.status, found.reason) == ("False", reason)
    assert message in found.message


def test_what_will_expire_is_said_and_stops_nothing():
    report = told(running(settle(PlannedWorld(pipeline()))), secrets=(SOON,))

    assert report.is_ready
    assert condition(report, "CredentialsReady") == Condition(
        "CredentialsReady",
        "True",
        "Complete",
        "every Secret that the Pipeline needs is there and complete; key tls.crt of Secret y expires soon: renew it",
    )


def test_secrets_that_could_not_be_read_are_unknown():
    report = told(running(settle(PlannedWorld(pipeline()))), secrets=Trouble("SecretsUnreadable", "no answer"))

    assert not report.is_ready
    assert condition(report, "CredentialsReady") == Condition(
        "CredentialsReady", "Unknown", "SecretsUnreadable", "no answer"
    )


def test_a_login_that_kafka_refuses_is_told_with_its_secret():
    """Secrets may look well, and hold what does not work."""
    world = running(settle(PlannedWorld(pipeline())))
    login = SecretRef(name="kafka-login")
    tls = TLS(ca_secret_ref=SecretRef(name="kafka-ca"), client_certificate_secret_ref=SecretRef(name="kafka-client"))
    kafka = world.pipeline.spec.kafka.model_copy(update={"sasl": Sasl(secret_ref=login), "tls": tls})
    spec = world.pipeline.spec.model_copy(update={"kafka": kafka})
    world.pipeline = world.pipeline.model_copy(update={"spec": spec})

    found = condition(told(world, topics=Trouble("LoginRefused", "refused")), "CredentialsReady")
    assert (found.status, found.reason) == ("False", "LoginRefused")
    assert found.message == "Secret kafka-login, keys username and password: refused"
    found = condition(told(world, topics=Trouble("TlsFails", "no trust")), "CredentialsReady")
    assert found.message == "Secret kafka-ca, key ca.crt or the certificate in Secret kafka-client: no trust"
    assert condition(told(world, topics=Trouble("KafkaUnreachable", "away")), "CredentialsReady").is_good


def test_users_that_nobody_manages_are_told_with_what_to_do():
    world = PlannedWorld(pipeline(users="Managed"), makes_users=False)
    settle(running(world))
    logins = [wanted.name for wanted in formats.managed(world.pipeline)]
    unmade = [Problem(secret=name, wrong="does not exist", cure="create it") for name in logins]
    found = condition(told(world, secrets=(MISSING, *unmade[1:])), "CredentialsReady")

    assert logins == ["sensors-devices-kafka-user", "sensors-enrich-kafka-user", "sensors-store-kafka-user"]
    assert (found.status, found.reason) == ("False", "UsersNotManaged")
    for part in (
        "set managedUsers of charts/operator",
        "plan FILE --acls",
        "SCRAM-SHA-512",
        "username and password",
        "sasl.secretRef",
    ):
        assert part in found.message
    assert "incomplete: sensors-enrich-kafka-user, sensors-store-kafka-user)" in found.message
    assert found.message.endswith("; Secret x does not exist: create it")
    assert condition(told(world, secrets=(MISSING,)), "CredentialsReady").reason == "SecretsIncomplete"
    assert condition(told(world), "CredentialsReady").is_good


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


def test_a_pod_that_waits_says_for_what():
    world = running(settle(PlannedWorld(pipeline())))
    world.live[ENRICH]["status"] |= {"readyReplicas": 0}
    pod = PodState("sensors-enrich-0", "enrich", False, False, "r", None)
    world.pods = [pod]
    assert condition(told(world), "WorkloadsReady").reason == "Progressing"

    world.pods = [replace(pod, waits="topic raw does not exist")]
    report = told(world)
    found = condition(report, "WorkloadsReady")
    assert (found.reason, found.message) == ("Waiting", "pod sensors-enrich-0 waits: topic raw does not exist")
    assert condition(report, "Ready").reason == report.facts["why"] == "Waiting"
    stage = next(stage for stage in report.facts["stages"] if stage["name"] == "enrich")
    assert (stage["reason"], stage["message"]) == ("Waiting", "topic raw does not exist")


def test_a_rollout_that_is_under_way_is_no_success():
    world = running(settle(PlannedWorld(pipeline())))
    for body in world.live.values():
        if body["kind"] == "StatefulSet":
            body["status"] |= {"currentRevision": "a", "updateRevision": "b", "updatedReplicas": 0}

    found = condition(told(world), "WorkloadsReady")
    assert (found.reason, found.message) == ("Progressing", "not yet rolled out and ready: devices, enrich")


def wide() -> PlannedWorld:
    """Two replicas of the processor, which may have four; the sink is pinned."""
    world = settle(PlannedWorld(pipeline(low=1, high=4)))
    world.live[ENRICH]["spec"]["replicas"] = 2
    return running(world)


def on(world: PlannedWorld, **decided) -> dict:
    """Decisions on both stages that read."""
    stages = {stage.name: stage.autoscaling for stage in world.pipeline.spec.consuming_stages}
    return {
        "enrich": decision(stages["enrich"], **{"replicas": 2} | decided),
        "store": decision(stages["store"], lag=20, behind_s=1.0),
    }


def test_falling_behind_is_told_and_is_no_failure_of_the_deployment():
    world = wide()
    world.decided = on(world, reason="AtMaximum", lag=100, behind_s=99.0)
    report = told(world)

    assert report.is_ready
    assert condition(report, "Scaling").status == "True"
    assert report.facts["why"] == "AtMaximum"
    assert report.numbers == {"lag": "120", "behind": "99s"}


@pytest.mark.parametrize(
    ("reason", "held_s", "status"),
    [("AtMaximum", 299, "True"), ("AtMaximum", 300, "False"), ("KeepingUp", 9_000, "True"), ("Stuck", 301, "False")],
)
def test_what_keeps_a_stage_from_being_scaled_for_five_minutes_is_a_condition(reason, held_s, status):
    world = wide()
    world.decided = on(world, reason=reason, held_s=held_s)
    found = condition(told(world), "Scaling")

    assert (found.status, found.reason) == (status, reason)
    assert found.message.startswith(f"enrich: because of {reason}")
    assert ("for more than 5 minutes" in found.message) is (status == "False")


def test_the_stage_that_is_kept_gives_the_reason_though_another_is_worse_just_now():
    world = PlannedWorld(pipeline(low=1, high=4, sink_high=4))
    world = running(settle(world))
    bounds = world.pipeline.spec.processors[0].autoscaling
    world.decided = {
        "enrich": decision(bounds, reason="HotPartition", held_s=1.0),
        "store": decision(bounds, reason="CatchingUp", held_s=900.0),
    }
    found = condition(told(world), "Scaling")

    assert (found.status, found.reason) == ("False", "CatchingUp")
    assert found.message == "enrich: because of HotPartition; store: because of CatchingUp (for more than 5 minutes)"


def test_a_stage_that_was_scaled_a_moment_ago_is_no_rollout():
    """New replicas start while the others work; that takes no minute, or it is told."""
    world = wide()
    world.live[ENRICH]["spec"]["replicas"] = 4
    world.decided = on(world, replicas=4, reason="Starting")

    for since_s, reason in ((5, "RolledOut"), (61, "Progressing")):
        world.lasting = {"enrich": Lasting(changed_at=NOW - since_s)}
        assert condition(told(world), "WorkloadsReady").reason == reason


def test_one_unknown_lag_makes_the_sum_unknown():
    world = wide()
    world.decided = on(world, missing="Kafka did not answer", reason="MeasurementMissing")
    report = told(world)

    assert report.numbers == {}
    assert report.facts["why"] == "MeasurementMissing"


def test_each_stage_tells_its_figures():
    world = wide()
    world.decided = on(world, lag=123, behind_s=3.2, rate=812.0, capacity=407.0, capacity_is_measured=True)
    world.lasting = {"enrich": Lasting(capacity=407.3, changed_at=NOW - 900)}
    stage = next(stage for stage in told(world).facts["stages"] if stage["name"] == "enrich")

    assert stage == {
        "name": "enrich",
        "kind": "processor",
        "replicas": 2,
        "readyReplicas": 2,
        "lag": "120",
        "behind": "3s",
        "rate": "810/s",
        "capacity": "410/s",
        "reason": "KeepingUp",
        "message": "because of KeepingUp",
        "scaling": {"capacity": 407.0, "changedAt": NOW - 900, "scaleInSeconds": 5.0, "scaleOutSeconds": 10.0},
    }


def test_what_was_decided_and_cannot_be_carried_out_is_not_written_down():
    """It is decided anew at every look, and each would be a change of a moment ago."""
    world = wide()
    kept = {"changedAt": 5.0}
    world.identity = replace(world.identity, scaling={"enrich": kept})
    world.claims = {"raw": "default/older"}
    world.lasting = {"enrich": Lasting(changed_at=NOW)}
    stage = next(stage for stage in told(world).facts["stages"] if stage["name"] == "enrich")

    assert (stage["reason"], stage["scaling"]) == ("Frozen", kept)


def test_what_was_measured_before_stays_while_nothing_is_known_here():
    """A new operator whose Kafka does not answer must not wipe out what the one before it knew."""
    world = wide()
    kept = {"capacity": 407.0, "changedAt": 5.0}
    world.identity = replace(world.identity, scaling={"enrich": kept})
    stage = next(stage for stage in told(world).facts["stages"] if stage["name"] == "enrich")

    assert stage["scaling"] == kept


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
    ("stage", "shown", "fresh", "is_kept"),
    [
        ("", 700, 600, True),
        ("", 700, 400, False),
        ("", 1, 3, True),
        ("", 1, 4, False),
        ("", 0, 1, False),
        ("", 1, 0, False),
        ("", 0, 0, True),
        ("enrich", 700, 400, True),
        ("enrich", 700, 300, False),
        ("enrich", 0, 1, True),
    ],
)
def test_numbers_that_swing_at_even_load_stay(stage, shown, fresh, is_kept):
    lag = (stage, "lag")

    assert (reporting.steady({lag: shown}, {lag: fresh}) == {lag: shown}) is is_kept


@pytest.mark.parametrize("stage", ["", "enrich"])
@pytest.mark.parametrize(
    ("shown", "fresh", "rate", "is_kept"),
    [(41, 240, 250, True), (240, 0, 250, True), (41, 400, 250, False), (400, 0, 250, False), (41, 0, 0, False)],
)
def test_lag_that_arrives_within_a_second_is_in_flight(stage, shown, fresh, rate, is_kept):
    figures = {(stage, "lag"): fresh, (stage, "rate"): rate}

    assert (reporting.steady({(stage, "lag"): shown}, figures)[stage, "lag"] == shown) is is_kept


def test_a_number_that_is_unknown_now_is_not_shown():
    lag, rate = ("", "lag"), ("", "rate")

    assert reporting.steady({lag: 5.0, rate: 1.0}, {rate: 1.0}) == {rate: 1.0}


def test_what_is_older_than_the_memory_is_told_as_at_least():
    world = wide()
    world.decided = on(world, lag=5, behind_s=180.0, behind_is_at_least=True)

    assert told(world).numbers["behind"] == ">3m"


def test_a_verdict_keeps_its_words_until_it_says_something_else_or_of_other_figures():
    def verdict(reason: str, behind: str) -> dict:
        return {"enrich": Wanted(2, reason, f"{behind} behind")}

    shown = {("enrich", "behind"): 2.0, ("store", "behind"): 7.0}
    first = reporting.told_before({}, verdict("KeepingUp", "2.1 s"), shown)
    same = reporting.told_before(first, verdict("KeepingUp", "2.4 s"), shown | {("store", "behind"): 90.0})
    later = reporting.told_before(same, verdict("KeepingUp", "5.2 s"), {("enrich", "behind"): 5.2})
    other = reporting.told_before(same, verdict("CatchingUp", "2.4 s"), shown)

    assert [each["enrich"].wanted.sentence for each in (first, same, later, other)] == [
        "2.1 s behind",
        "2.1 s behind",
        "5.2 s behind",
        "2.4 s behind",
    ]


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


@pytest.mark.parametrize(("status", "is_written"), [("True", False), ("False", True)])
def test_verdicts_wait_too_and_a_stage_that_cannot_be_scaled_does_not(status, is_written):
    """Else every round of a stage whose load changes would write."""

    def behind(status: str, reason: str, replicas: int) -> Report:
        return report(
            conditions=(Condition("Scaling", status, reason, f"{replicas} s behind"),),
            facts={"why": reason, "replicas": f"{replicas}/3", "stages": [{"name": "enrich", "reason": reason}]},
        )

    before = written(behind("True", "FallingBehind", 1))
    patch = reporting.status_patch(before, behind(status, "AtMaximum", 2), now="later", written_s=29)
    due = reporting.status_patch(before, behind(status, "AtMaximum", 2), now="later", written_s=30)

    assert (patch is not None) is is_written
    assert due is not None


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


@pytest.mark.parametrize(
    ("before", "now", "is_told"),
    [
        ({}, Condition("Ready", "True", "Running", ""), True),
        ({"status": "True", "reason": "Running"}, Condition("Ready", "True", "Running", "other"), False),
        ({"status": "True", "reason": "Running"}, Condition("Ready", "False", "Progressing", ""), False),
        ({}, Condition("Scaling", "True", "KeepingUp", ""), False),
        ({"status": "True", "reason": "KeepingUp"}, Condition("Scaling", "True", "AtMaximum", ""), False),
        ({"status": "True", "reason": "AtMaximum"}, Condition("Scaling", "False", "AtMaximum", ""), True),
        ({"status": "False", "reason": "AtMaximum"}, Condition("Scaling", "True", "KeepingUp", ""), True),
        ({"status": "True", "reason": "KeepingUp"}, Condition("Scaling", "False", "Paused", ""), False),
        ({"status": "True", "reason": "KeepingUp"}, Condition("Scaling", "Unknown", "Frozen", ""), False),
    ],
)
def test_events_tell_what_changes_for_the_user(before, now, is_told):
    assert reporting.is_worth_an_event(before, now) is is_told


@pytest.mark.parametrize("nonsense", [None, "x", 7, [1]])
def test_what_others_wrote_under_scaling_is_left_out(nonsense):
    status = {"stages": [{"name": "a", "scaling": nonsense}, {"name": "b", "scaling": {"capacity": 3}}, {"name": "c"}]}

    assert reporting.scaling_kept(status) == {"b": {"capacity": 3}}


def test_messages_of_many_problems_stay_readable():
    found = reporting.invalid(1, [f"problem {number}" for number in range(50)]).conditions[0]

    assert found.message.endswith("problem 19; and 30 more")
