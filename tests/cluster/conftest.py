"""One Kafka and one PostgreSQL for a run; each test has a namespace of its own."""

import json
import os

import kube
import pytest
from sensors import Sensors
from services import until
from surroundings import Surroundings

from forebay.pipeline import schema


@pytest.fixture(scope="session")
def cluster():
    """There is one."""
    if "KUBECONFIG" not in os.environ:
        pytest.exit("name a cluster by KUBECONFIG, or start one and run these tests by `make e2e`", returncode=2)


@pytest.fixture(scope="module")
def definition(cluster):
    """The cluster knows Pipelines, as this version defines them."""
    kube.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=schema.crd_yaml())
    until(lambda: "Established" in _conditions("crd/pipelines.forebay.dev"), what="Pipelines are known", deadline_s=30)


def _conditions(name: str) -> list[str]:
    """Those of the object that are true. `kubectl wait` fails on one that is so new that it has none."""
    found = json.loads(kube.kubectl("get", name, "--output", "json"))
    conditions = found.get("status", {}).get("conditions") or []
    return [condition["type"] for condition in conditions if condition["status"] == "True"]


@pytest.fixture(scope="session")
def surroundings(cluster):
    with Surroundings() as shared:
        yield shared


@pytest.fixture
def sensors(surroundings):
    """The sensors Pipeline, to be installed; its devices send until they are stopped."""
    with Sensors(surroundings) as release:
        yield release


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """A failure is told with what the cluster looked like when it happened."""
    report = yield
    if report.failed and "sensors" in item.funcargs:
        release = item.funcargs["sensors"]
        try:
            report.sections.append(("where the readings are", release.progress()))
        except Exception as error:  # noqa: BLE001 - Kafka or the database may be what failed
            report.sections.append(("where the readings are", f"not known: {error}"))
        for namespace in (release.namespace, release.surroundings.namespace):
            report.sections.append((f"namespace {namespace}", kube.explain(namespace)))
    return report
