"""Pipelines on a Kafka with TLS, logins and ACLs, in pods: rotated under load, connected in every way, and nothing shown."""

import base64
import datetime as dt
import json
import time

import kube
import pytest
from authority import Authority
from installed import NAME
from kube import Forward
from secured import (
    CLIENT,
    MUTUAL,
    PORTS,
    REAUTHENTICATE_MS,
    ROOT,
    ROOT_PASSWORD,
    SASL,
    TENANT,
    TENANT_PASSWORD,
    TLS,
    Guarded,
    Secured,
)
from sensors import STAGES, assert_each_is_stored, assert_sent_without_gap
from services import until

from forebay.errors import Forbidden, TryLater
from forebay.kafka.admin import Admin, log_in
from forebay.kafka.users import Users
from forebay.pipeline.load import load_object
from forebay.planning.credentials import users
from forebay.planning.credentials.rotation import KEEP_S

pytestmark = [pytest.mark.long, pytest.mark.timeout(1_500)]

LOAD = {"devices": 500, "per_second": 5_000}
STEP_MS = 100
LONGEST_S = 5.0
MOUNTED_S = 150
"""The kubelet changes mounted Secrets about once a minute."""


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    """Another authority whose certificates Kafka takes."""
    return Authority(tmp_path_factory.mktemp("second"))


@pytest.fixture(scope="module")
def secured(definition, tmp_path_factory, second):
    with Secured(Authority(tmp_path_factory.mktemp("authority")), second) as found:
        yield found


@pytest.fixture
def place(secured):
    with Guarded(secured) as found:
        found.secret("kafka-ca", **{"ca.crt": secured.authority.pem.decode()})
        found.secret("kafka-admin", username=ROOT, password=ROOT_PASSWORD)
        yield found


def certificate(place: Guarded, authority: Authority) -> None:
    """The Secret of the client certificate, issued by that authority."""
    pair = authority.pair(CLIENT)
    place.secret("kafka-client", **{"tls.crt": pair.certificate.decode(), "tls.key": pair.private_key.decode()})


def start(place: Guarded, document: dict, **values) -> None:
    """The operator, and the Pipeline at work."""
    place.install(managedUsers=True, **values)
    place.apply(document)
    place.until_ready(180)
    place.until_stored(1_000)


def assert_stored_exactly_once(place: Guarded, document: dict) -> int:
    """How many readings there were."""
    place.stop_devices(document)
    readings = place.readings()
    assert_sent_without_gap(readings, LOAD["devices"], STEP_MS)
    assert_each_is_stored(readings, place.rows())
    return len(readings)


def test_users_change_under_load(place):
    """Every stage has another user, in the same processes; the former ones are refused, and nothing is lost or doubled."""
    document = place.managed(**LOAD)
    start(place, document)
    before, former = place.containers(), {stage: place.written(stage) for stage in STAGES}
    begun = time.monotonic()
    with place.pauses() as pauses:
        place.kubectl("annotate", "pipeline", NAME, "forebay.dev/rotate=today")

        def is_used(stage: str) -> bool:
            return [value for _, value in place.exported(stage, "forebay_credential_generation")] == [2]

        for stage in STAGES:
            until(
                lambda stage=stage: is_used(stage), what=f"{stage} uses the new user", deadline_s=MOUNTED_S, every_s=2
            )
        used_s = time.monotonic() - begun
        with Forward(place.surroundings.namespace, "service/kafka", PORTS["sasl"]) as forward:
            for stage in STAGES:
                until(
                    lambda stage=stage: is_refused(place, former[stage], forward.port),
                    what=f"the former user of {stage} is refused",
                    deadline_s=KEEP_S + 60,
                    every_s=3,
                )
            assert not is_refused(place, place.written("enrich"), forward.port)
        gone_s = time.monotonic() - begun
        time.sleep(1.5 * REAUTHENTICATE_MS / 1_000)
        assert place.containers() == before, "a pod was restarted"
    count = assert_stored_exactly_once(place, document)
    longest = ", ".join(f"{stage} {pause_s:.2f} s" for stage, pause_s in pauses.items())
    print(f"in use after {used_s:.0f} s, refused after {gone_s:.0f} s; longest pauses: {longest}; {count} readings")
    assert max(pauses.values()) < LONGEST_S
    assert {stage: place.written(stage)["generation"] for stage in STAGES[1:]} == dict.fromkeys(STAGES[1:], "2")


def is_refused(place: Guarded, login: dict[str, str], port: int) -> bool:
    connection = {
        "bootstrap.servers": f"localhost:{port}",
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": login["username"],
        "sasl.password": login["password"],
        "ssl.ca.pem": place.authority.pem.decode(),
    }
    try:
        log_in(connection, timeout_s=0)
    except Forbidden:
        return True
    except TryLater:  # logged in, and told of a broker whose name means nothing outside of the cluster
        pass
    return False


def test_certificates_change_under_load(place, second):
    """A bundle of two authorities, then a certificate of the second one: the same pods, every reading once."""
    certificate(place, place.authority)
    document = place.secured(MUTUAL, **LOAD)
    document["spec"]["kafka"]["tls"]["clientCertificateSecretRef"] = {"name": "kafka-client"}
    start(place, document)
    before = place.containers()

    def renewed(stage: str) -> float:
        found = place.exported(stage, "forebay_credential_rotations_total")
        return sum(value for labels, value in found if labels["way"] == "new-clients")

    with place.pauses() as pauses:
        bundle = place.authority.pem + second.pem
        place.secret("kafka-ca", **{"ca.crt": bundle.decode()})
        for stage in STAGES:
            until(lambda stage=stage: renewed(stage) == 1, what=f"{stage} trusts both", deadline_s=MOUNTED_S, every_s=2)
        certificate(place, second)
        for stage in STAGES:
            until(lambda stage=stage: renewed(stage) == 2, what=f"{stage} has it", deadline_s=MOUNTED_S, every_s=2)
        time.sleep(10)
        assert place.containers() == before, "a pod was restarted"
    count = assert_stored_exactly_once(place, document)
    longest = ", ".join(f"{stage} {pause_s:.2f} s" for stage, pause_s in pauses.items())
    print(f"longest pauses: {longest}; {count} readings")
    assert max(pauses.values()) < LONGEST_S


LOGIN = {"secretRef": {"name": "kafka-admin"}}
WAYS = {
    "TLS": (TLS, {}),
    "mutual TLS": (MUTUAL, {}),
    "PLAIN": (SASL, {"sasl": LOGIN | {"mechanism": "PLAIN"}}),
    "SCRAM-SHA-256": (SASL, {"sasl": LOGIN | {"mechanism": "SCRAM-SHA-256"}}),
    "SCRAM-SHA-512": (SASL, {"sasl": LOGIN | {"mechanism": "SCRAM-SHA-512"}}),
    "managed users": (SASL, {"sasl": {"users": "Managed"}, "adminSecretRef": {"name": "kafka-admin"}}),
}


def test_one_pipeline_connects_in_every_way_one_after_another(place):
    """Another listener or mechanism is a change of the spec like any other: pods roll, and every reading is stored once."""
    certificate(place, place.authority)
    place.install(managedUsers=True)
    for way, (bootstrap, kafka) in WAYS.items():
        document = place.secured(bootstrap, **LOAD, **kafka)
        if way == "mutual TLS":
            document["spec"]["kafka"]["tls"]["clientCertificateSecretRef"] = {"name": "kafka-client"}
        begun = place.apply(document)
        place.until_ready(180)
        place.until_stored(place.stored() + 5_000)
        print(f"{way}: at work after {time.monotonic() - begun:.0f} s")
    assert_stored_exactly_once(place, document)


WRONG = {
    "a wrong password": ("kafka-login", {"password": "canary-wrong"}, "password"),
    "a user that is not there": ("kafka-login", {"username": "nobody"}, "username"),
    "another authority": ("kafka-ca", {"ca.crt": "STRANGER"}, "ca.crt"),
    "no certificate": ("kafka-ca", {"ca.crt": "canary-no-certificate"}, "ca.crt"),
    "an expired certificate": ("kafka-client", {"tls.crt": "EXPIRED"}, "tls.crt"),
    "a key of another certificate": ("kafka-client", {"tls.key": "OTHER"}, "tls.key"),
}


@pytest.fixture
def strange(tmp_path):
    return Authority(tmp_path)


def test_what_is_wrong_is_told_and_stops_nothing(place, strange, second):
    """Each wrong content of a Secret is a condition that names Secret and key; pods go on with what they had."""
    expired = place.authority.pair(CLIENT, begins=dt.timedelta(days=-2), lasts=dt.timedelta(days=-1))
    texts = {
        "STRANGER": strange.pem.decode(),
        "EXPIRED": expired.certificate.decode(),
        "OTHER": second.pair(CLIENT).private_key.decode(),
    }
    pair = place.authority.pair(CLIENT)
    right = {
        "kafka-login": {"username": ROOT, "password": ROOT_PASSWORD},
        "kafka-ca": {"ca.crt": place.authority.pem.decode()},
        "kafka-client": {"tls.crt": pair.certificate.decode(), "tls.key": pair.private_key.decode()},
    }
    for name, keys in right.items():
        place.secret(name, **keys)
    document = place.secured(SASL, sasl={"secretRef": {"name": "kafka-login"}})
    document["spec"]["kafka"]["tls"]["clientCertificateSecretRef"] = {"name": "kafka-client"}
    start(place, document)
    before = place.containers()
    told = {}
    for what, (name, keys, key) in WRONG.items():
        place.secret(name, **{each: texts.get(text, text) for each, text in keys.items()})
        told[what] = until(
            lambda name=name, key=key: complaint(place, name, key),
            what=f"{what} is told",
            deadline_s=60,
            every_s=0.5,
        )
        place.secret(name, **right[name])
        until(lambda: place.condition("CredentialsReady")["status"] == "True", what=f"mended: {what}", deadline_s=60)
    place.kubectl("delete", "secret", "kafka-login")
    told["a deleted Secret"] = until(
        lambda: complaint(place, "kafka-login"), what="a deleted Secret is told", deadline_s=60
    )
    time.sleep(MOUNTED_S / 2)
    stored = place.stored()
    place.until_stored(stored + 1_000)
    assert place.containers() == before, "a pod was restarted"
    place.secret("kafka-login", **right["kafka-login"])
    place.until_ready()
    print("\n".join(f"{what}: {message}" for what, message in told.items()))
    assert not [message for message in told.values() if "canary" in message]


def complaint(place: Guarded, *words: str) -> str | None:
    """What the condition says, when it is not content and these words stand in it."""
    found = place.condition("CredentialsReady")
    return found["message"] if found["status"] != "True" and all(word in found["message"] for word in words) else None


def test_rights_that_are_missing_are_one_condition_and_no_storm_of_restarts(place):
    """Kind of resource by kind: the condition says what is missing, and each stage goes on as soon as it is added."""
    place.secret("kafka-login", username=TENANT, password=TENANT_PASSWORD)
    document = place.secured(SASL, sasl={"secretRef": {"name": "kafka-login"}}, adminSecretRef={"name": "kafka-admin"})
    place.install()
    place.apply(document)
    pipeline = load_object(document | {"metadata": {"name": NAME, "namespace": place.namespace}})
    needed = {acl for stage in pipeline.spec.stages for acl in users.needed(pipeline, stage, TENANT)}
    rights = Users(Admin({"bootstrap.servers": place.surroundings.bootstrap}))

    def told(*words: str) -> str | None:
        found = place.condition("WorkloadsReady")
        return (
            found["message"]
            if found["reason"] == "Waiting" and all(map(found["message"].__contains__, words))
            else None
        )

    for resource, words in {
        "TOPIC": ("raw_sensor_events", "enriched_sensor_events", "add the ACL"),
        "TRANSACTIONAL_ID": ("transactional id", f"{NAME}-devices-0", f"{NAME}-enrich-0", "add the ACL"),
        "GROUP": (
            f"{NAME}-enrich-0 waits: the user may not join the consumer group",
            f"{NAME}-warehouse",
            "add the ACL",
        ),
    }.items():
        message = until(lambda words=words: told(*words), what=f"{resource} is missed", deadline_s=90, every_s=0.5)
        print(f"{resource}: {message}")
        rights.add([acl for acl in needed if acl.resource == resource])
    place.until_ready(120)
    place.until_stored(1_000)
    assert set(place.containers().values()) == {0}


def test_nothing_secret_is_shown(place):
    """Canaries in every Secret, at the level debug, a stage that crashes and a rotation on the way: found nowhere else."""
    canaries = {ROOT_PASSWORD}
    database = place.surroundings.secret["stringData"]
    canaries.add(database["password"])
    certificate(place, place.authority)
    document = place.managed()
    document["spec"]["kafka"]["tls"]["clientCertificateSecretRef"] = {"name": "kafka-client"}
    start(place, document, logLevel="debug", podDefaults={"logLevel": "debug"})
    canaries |= {place.written(stage)["password"] for stage in STAGES}
    key = json.loads(place.kubectl("get", "secret", "kafka-client", "-o", "json"))["data"]["tls.key"]
    canaries.add(base64.b64decode(key).decode().splitlines()[1])
    place.kubectl("annotate", "pipeline", NAME, "forebay.dev/rotate=today")
    until(lambda: place.written("enrich")["generation"] == "2", what="rotated", deadline_s=60)
    canaries |= {place.written(stage)["password"] for stage in STAGES}

    said = {"running": everything_shown(place)}
    # a view that takes no rows
    document["spec"]["sinks"][0]["destination"]["postgres"] |= {"schema": "pg_catalog", "table": "pg_tables"}
    place.apply(document)
    until(lambda: max(place.containers().values(), default=0) > 0, what="a stage crashes", deadline_s=150, every_s=1)
    said["crashed"] = everything_shown(place)
    secrets = canaries | {base64.b64encode(text.encode()).decode() for text in canaries}
    for when, texts in said.items():
        assert all(texts.values()), [where for where, text in texts.items() if not text]
        print(when, {where: len(text) for where, text in texts.items()})
        found = {where for where, text in texts.items() for each in secrets if each in text}
        assert not found, f"{when}: in {found}"


def everything_shown(place: Guarded) -> dict[str, str]:
    """What a person without the right to read Secrets can see, by where."""
    namespace = place.namespace
    kinds = "pipelines,pods,statefulsets,deployments,services,configmaps,leases,poddisruptionbudgets"
    shown = {
        "objects": kube.kubectl("get", kinds, "-o", "yaml", "--show-managed-fields", namespace=namespace),
        "events": kube.kubectl("get", "events", "-o", "yaml", namespace=namespace),
        "described": kube.kubectl("describe", kinds, namespace=namespace),
        "release": kube.helm("get", "all", "forebay", "--namespace", namespace),
        "operator's log": kube.kubectl("logs", place.operator_pod(), namespace=namespace),
        "operator's metrics": place.metrics(),
    }
    inside = "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline | tr '\\0' '\\n'; env"
    for pod in [place.operator_pod(), *(each["metadata"]["name"] for each in place.pods())]:
        try:
            shown[f"environment of {pod}"] = kube.kubectl("exec", pod, "--", "sh", "-c", inside, namespace=namespace)
        except kube.CommandError:  # it has just crashed
            shown[f"log of {pod} before"] = kube.kubectl("logs", pod, "--previous", namespace=namespace)
    for stage in STAGES:
        for pod in place.pods(stage):
            name = pod["metadata"]["name"]
            shown[f"log of {name}"] = kube.kubectl("logs", name, namespace=namespace)
            if any(each["restartCount"] for each in pod["status"].get("containerStatuses", ())):
                shown[f"log of {name} before"] = kube.kubectl("logs", name, "--previous", namespace=namespace)
            path = f"/api/v1/namespaces/{namespace}/pods/{name}:8080/proxy/metrics"
            try:
                shown[f"metrics of {name}"] = kube.kubectl("get", "--raw", path)
            except kube.CommandError:  # not running at the moment
                continue
    return shown
