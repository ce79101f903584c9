"""What the operator in its pod asks of Kubernetes for the sample, while its load is even and while it is not."""

import time
from collections import Counter

import pytest
from installed import Installed
from load import Load
from prometheus_client.parser import text_string_to_metric_families
from services import until

pytestmark = [pytest.mark.long, pytest.mark.timeout(1_800), pytest.mark.usefixtures("definition")]

CALMED_S = 120
EVEN_MINUTES = 10
UNEVEN_MINUTES = 4
LOW, HIGH = 50, 800
OWN = {("PUT", "Lease"), ("PATCH", "ConfigMap")}
"""What it asks however many Pipelines there are: it renews its Lease, and sings as a canary every minute."""


class Counted:
    """The operator's metrics at one moment."""

    def __init__(self, text: str) -> None:
        self._samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    def sum(self, name: str) -> float:
        """Over all labels; 0 where there is none."""
        return sum(sample.value for sample in self._samples if sample.name == name)

    @property
    def calls(self) -> Counter[tuple[str, str]]:
        """By verb and kind."""
        found: Counter[tuple[str, str]] = Counter()
        for sample in self._samples:
            if sample.name == "forebay_operator_api_calls_total":
                found[sample.labels["verb"], sample.labels["kind"]] += int(sample.value)
        return found

    @property
    def patches(self) -> float:
        """Of the status of Pipelines."""
        return self.sum("forebay_operator_status_patches_total")

    @property
    def mebibytes(self) -> float:
        return self.sum("process_resident_memory_bytes") / (1 << 20)

    @property
    def started_at(self) -> float:
        """Another one after a restart, when everything is counted anew."""
        return self.sum("process_start_time_seconds")


class Sample(Installed):
    """The sample, with its devices' even load; tests add readings to theirs."""

    def counted(self) -> Counted:
        return Counted(self.metrics())

    def start(self, **autoscaling) -> None:
        """The operator, and the sample with these bounds of its processor, ready for a while."""
        self.install()
        document = self.document()
        if autoscaling:
            document["spec"]["processors"][0] |= {"rateLimit": HIGH // 2, "autoscaling": autoscaling}
        self.apply(document)
        self.until_ready()
        since, ready_since = time.monotonic(), ""

        def is_calm() -> bool:
            nonlocal since, ready_since
            told = self.condition("Ready")
            if told["status"] != "True" or told["lastTransitionTime"] != ready_since:
                since, ready_since = time.monotonic(), told.get("lastTransitionTime", "")
            return time.monotonic() - since >= CALMED_S

        until(is_calm, what=f"it is ready for {CALMED_S} s", deadline_s=CALMED_S + 240, every_s=2)


@pytest.fixture
def place(surroundings):
    with Sample(surroundings) as found:
        yield found


def test_under_even_load_nothing_is_written(place):
    place.start()
    before, version = place.counted(), place.pipeline()["metadata"]["resourceVersion"]
    time.sleep(EVEN_MINUTES * 60)
    after = place.counted()

    calls = after.calls - before.calls
    asked = {call: count for call, count in calls.items() if call not in OWN}
    told = ", ".join(f"{verb} {kind} {count}" for (verb, kind), count in sorted(calls.items()))
    print(
        f"{EVEN_MINUTES} minutes of even load: {sum(asked.values()) / EVEN_MINUTES:.1f} requests a minute for the Pipeline, "
        f"{after.patches - before.patches:.0f} of them to write its status; {after.mebibytes:.0f} MiB; all: {told}"
    )
    assert after.started_at == before.started_at
    assert place.pipeline()["metadata"]["resourceVersion"] == version
    assert after.patches == before.patches
    assert [call for call in asked if call[0] != "GET"] == []
    assert calls["PATCH", "ConfigMap"] <= EVEN_MINUTES + 1, "a canary sings once a minute"
    assert sum(asked.values()) / EVEN_MINUTES < 2


@pytest.mark.parametrize("autoscaling", [{}, {"maxReplicas": 4}], ids=["pinned", "scaled"])
def test_under_uneven_load_the_status_is_written_twice_a_minute_at_most(place, autoscaling):
    """Steps that are shorter than what figures are taken over, and steps that are not."""
    place.start(**autoscaling)
    for step_s in (20, 60):
        before, began = place.counted(), time.monotonic()
        for _ in range(UNEVEN_MINUTES * 60 // step_s // 2):
            for per_second in (LOW, HIGH):
                with Load(place, per_second=per_second):
                    time.sleep(step_s)
        after, minutes = place.counted(), (time.monotonic() - began) / 60

        patches = after.patches - before.patches
        print(
            f"steps of {step_s} s: the status was written {patches:.0f} times in {minutes:.1f} minutes; "
            f"{after.mebibytes:.0f} MiB"
        )
        assert after.started_at == before.started_at
        assert 1 <= patches <= 2 * minutes + 1
