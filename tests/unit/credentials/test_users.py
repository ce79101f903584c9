"""Which ACLs each kind of stage needs, and the steps from those that are there; what is somebody else's stays untouched."""

import pytest

from forebay.pipeline import names
from forebay.pipeline.spec import Pipeline
from forebay.planning.credentials import users
from forebay.planning.credentials.users import Acl, AddAcls, DeleteUser, Present, RememberUsers, RemoveAcls

AVERAGE = {"name": "average", "movingAverage": {"field": "temperature_c", "output": "avg"}}
KEPT = {"name": "cold", "filter": {"where": [{"field": "temperature_c", "max": 0}]}}
NOTHING = Present(frozenset(), frozenset())


def pipeline(name="sensors", namespace="shop", transforms=(AVERAGE, KEPT), **enrich) -> Pipeline:
    return Pipeline.model_validate(
        {
            "metadata": {"name": name, "namespace": namespace},
            "spec": {
                "kafka": {
                    "bootstrapServers": "kafka:9093",
                    "tls": {},
                    "sasl": {"users": "Managed"},
                    "adminSecretRef": {"name": "admin"},
                },
                "topics": [{"name": "raw", "partitions": 2}, {"name": "out", "partitions": 2}],
                "producers": [{"name": "devices", "to": "raw", "source": {"simulator": {}}}],
                "processors": [
                    {"name": "enrich", "from": "raw", "to": "out", "transforms": list(transforms), **enrich}
                ],
                "sinks": [{"name": "store", "from": "out", "destination": {"stdout": {}}}],
            },
        }
    )


def stage(name: str, of: Pipeline | None = None):
    return next(each for each in (of or pipeline()).spec.stages if each.name == name)


def needed(name: str, of: Pipeline | None = None) -> set[tuple]:
    acls = users.needed(of or pipeline(), stage(name, of), "u")
    assert {(acl.user, acl.host) for acl in acls} == {("u", "*")}
    assert len(set(acls)) == len(acls)
    return {(acl.operation, acl.resource, acl.name + ("*" if acl.is_prefix else "")) for acl in acls}


def test_a_producer_writes_its_topic_and_keeps_positions():
    assert needed("devices") == {
        ("WRITE", "TOPIC", "raw"),
        ("READ", "TOPIC", "shop.sensors.devices.positions"),
        ("WRITE", "TOPIC", "shop.sensors.devices.positions"),
        ("WRITE", "TRANSACTIONAL_ID", "shop.sensors.devices.*"),
    }


def test_a_processor_reads_writes_and_keeps_state():
    assert needed("enrich") == {
        ("READ", "TOPIC", "raw"),
        ("READ", "GROUP", "shop.sensors.enrich"),
        ("WRITE", "TOPIC", "out"),
        ("WRITE", "TOPIC", "raw.dlq"),
        ("WRITE", "TRANSACTIONAL_ID", "shop.sensors.enrich.*"),
        ("READ", "TOPIC", "shop.sensors.enrich.average.v1.changelog"),
        ("WRITE", "TOPIC", "shop.sensors.enrich.average.v1.changelog"),
        ("DESCRIBE_CONFIGS", "TOPIC", "shop.sensors.enrich.average.v1.changelog"),
    }


def test_without_state_there_is_no_changelog_to_use():
    assert not [name for _, _, name in needed("enrich", pipeline(transforms=[KEPT])) if "changelog" in name]


def test_a_sink_reads_and_writes_dead_letters():
    assert needed("store") == {
        ("READ", "TOPIC", "out"),
        ("READ", "GROUP", "shop.sensors.store"),
        ("WRITE", "TOPIC", "out.dlq"),
    }


def test_dead_letters_go_where_the_stage_sends_them():
    assert ("WRITE", "TOPIC", "failed") in needed("enrich", pipeline(deadLetters={"topic": "failed"}))


def test_two_users_take_turns():
    turns = [names.user(pipeline(), stage("enrich"), generation) for generation in (1, 2, 3, 4)]

    assert turns == [f"shop.sensors.enrich.{turn}" for turn in "abab"]


def test_no_prefix_covers_a_neighbour():
    neighbours = [
        pipeline(name="sensors-b"),
        pipeline(name="b", namespace="shop-sensors"),
        pipeline(name="sensorsenrich"),
    ]
    prefix = names.transactional_ids(pipeline(), stage("enrich"))
    for other in neighbours:
        for each in other.spec.stages:
            assert not names.transactional_id(other, each, 0).startswith(prefix)
            assert not users.is_own(pipeline(), names.user(other, each, 1))
    for each in pipeline().spec.stages:
        assert names.transactional_id(pipeline(), each, 0).startswith(prefix) is (each.name == "enrich")


@pytest.mark.parametrize(
    "name",
    ["admin", "shop.sensors", "shop.sensors.a", "shop.sensors.enrich", "shop.sensors.enrich.c", "shop.sensors.x.y.a",
     "shop.sensors2.enrich.a", "xshop.sensors.enrich.a", "shop.sensors..a", "*", ""],
)  # fmt: skip
def test_other_names_are_not_own(name):
    assert not users.is_own(pipeline(), name)


A, B = "shop.sensors.enrich.a", "shop.sensors.enrich.b"
OTHERS = {f"shop.sensors.{each}.{turn}": each for each in ("devices", "store") for turn in "ab"}
OWN = frozenset({A, B, *OTHERS})


def present(*who: str, acls=()) -> Present:
    """These users, and the ACLs given beside those of the other stages."""
    others = [acl for user, each in OTHERS.items() for acl in users.needed(pipeline(), stage(each), user)]
    return Present(frozenset(who), frozenset([*acls, *others]))


def acls_of(user: str) -> tuple[Acl, ...]:
    return tuple(sorted(users.needed(pipeline(), stage("enrich"), user)))


BOTH = (*acls_of(A), *acls_of(B))


def diff(keep, seen, recorded=OWN, **more):
    return users.diff(pipeline(), keep, seen, frozenset(recorded), **more)


def test_names_are_recorded_before_anything_of_them_is_made():
    changes = diff([], NOTHING, ())

    assert changes.first[0] == RememberUsers(OWN)
    assert isinstance(changes.first[1], AddAcls)
    assert set(BOTH) < set(changes.first[1].acls)
    assert changes.last == ()


def test_nothing_is_done_when_all_is_as_wanted():
    assert diff([A], present(A, acls=BOTH)) == users.Changes()


def test_drift_is_corrected_in_both_directions():
    everything = Acl(A, "ALL", "TOPIC", "raw")
    wider = Acl(A, "WRITE", "TRANSACTIONAL_ID", "shop.", is_prefix=True)
    changes = diff([A], present(A, acls=[*BOTH[1:], everything, wider]))

    assert changes.first == (AddAcls(acls_of(A)[:1]),)
    assert changes.last == (RemoveAcls(tuple(sorted([everything, wider]))),)


def test_a_user_goes_and_its_acls_stay_for_the_connections_that_are_still_its_own():
    assert diff([B], present(A, B, acls=BOTH)).last == (DeleteUser(A),)
    assert diff([B], present(B, acls=BOTH)) == users.Changes()


def test_users_of_stages_that_are_gone_are_removed_and_forgotten_last():
    old = "shop.sensors.old.a"
    acl = Acl(old, "READ", "TOPIC", "raw")

    assert diff([A], present(A, old, acls=[*BOTH, acl]), {*OWN, old}).last == (DeleteUser(old), RemoveAcls((acl,)))
    assert diff([A], present(A, acls=[*BOTH, acl]), {*OWN, old}).last == (RemoveAcls((acl,)),)
    assert diff([A], present(A, acls=BOTH), {*OWN, old}).last == (RememberUsers(OWN),)


@pytest.mark.parametrize("seen", [present(A), present(acls=[Acl(A, "READ", "TOPIC", "mine")])])
def test_what_somebody_else_made_is_a_problem_and_not_touched(seen):
    changes = diff([A], seen, OWN - {A})

    assert (changes.first, changes.last) == ((), ())
    assert changes.problems == (
        (
            f"Kafka has a user {A}, or ACLs of it, that this Pipeline did not make: delete them, or annotate the Pipeline with "
            'forebay.dev/adopt: "true" to take them over'
        ),
    )


def test_what_somebody_else_made_is_taken_over_on_demand():
    changes = diff([A], present(A, acls=acls_of(B)), OWN - {A}, adopt=True)

    assert changes.first == (RememberUsers(OWN), AddAcls(acls_of(A)))


FOREIGN = ("admin", "shop.sensors", "shop.sensors.enrich.c", "shop.sensors2.enrich.a", "other.sensors.enrich.a")


def test_foreign_names_are_never_touched_even_when_they_are_recorded():
    acls = [Acl(user, "READ", "TOPIC", "raw") for user in FOREIGN]
    seen = present(A, *FOREIGN, acls=[*BOTH, *acls])
    recorded = frozenset({*OWN, *FOREIGN})
    last = diff([A], seen, recorded).last
    removed = users.removal(pipeline(), seen, recorded)

    assert removed == (DeleteUser(A), RemoveAcls(tuple(sorted(present(acls=BOTH).acls))))
    assert not [step for step in last if isinstance(step, DeleteUser | RemoveAcls)]
    assert not set(FOREIGN) & users.names_of(pipeline(), recorded)


def test_what_is_not_recorded_is_not_removed_with_the_pipeline():
    assert users.removal(pipeline(), present(A, acls=acls_of(A)), frozenset()) == ()


def test_who_may_not_manage_users_is_told_what_to_allow():
    sentence = users.not_permitted(pipeline())

    assert "allow it ALTER and DESCRIBE on the cluster" in sentence
    assert all(command in sentence for command in users.commands(pipeline(), "USER"))
    assert "--operation DescribeConfigs --topic shop.sensors.enrich.average.v1.changelog" in sentence
