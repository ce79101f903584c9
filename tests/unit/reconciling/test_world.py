"""What the operator knows of the cluster."""

import base64

from forebay.planning.credentials.checks import Verdict
from forebay.planning.credentials.formats import Use
from forebay_operator.world import Login, World

KEY = ("shop", "sensors")


def body(name="sensors", version=1, labels=None, **rest) -> dict:
    labels = {"forebay.dev/pipeline": "sensors"} if labels is None else labels
    metadata = {"namespace": "shop", "name": name, "resourceVersion": str(version), "labels": labels}
    return {"metadata": metadata, **rest}


def members(world: World) -> list[str]:
    return [f"{found['kind']}/{found['metadata']['name']}" for found in world.members(KEY)]


def test_an_older_version_is_no_news():
    world = World()
    world.see("Service", body(version=9, spec={"new": True}))
    world.see("Service", body(version=8, spec={"new": False}))

    assert [found["spec"] for found in world.members(KEY)] == [{"new": True}]


def test_versions_are_numbers():
    world = World()
    world.see("Service", body(version=9))
    world.see("Service", body(version=10, spec={}))

    assert ["spec" in found for found in world.members(KEY)] == [True]


def test_what_lost_the_label_no_longer_belongs():
    world = World()
    world.see("Service", body())
    world.see("Service", body(version=2, labels={}))

    assert members(world) == []


def test_a_listing_finds_out_what_vanished_unseen():
    world = World()
    for name in ("a", "b"):
        world.see("Service", body(name))
    world.see("Deployment", body("a"))
    world.replace_all("Service", world.names("Service", "shop"), [body("b", version=3), body("c")])

    assert members(world) == ["Deployment/a", "Service/b", "Service/c"]


def test_what_is_made_while_a_list_is_on_its_way_is_kept():
    world = World()
    world.see("Service", body("old"))
    asked = world.names("Service", "shop")
    world.see("Service", body("new"))
    world.replace_all("Service", asked, [])

    assert members(world) == ["Service/new"]


def test_secrets_leave_nothing_behind_but_whether_they_changed():
    world = World()
    world.see("Secret", {"metadata": {"namespace": "shop", "name": "login"}, "data": {"password": "aHVudGVyMg=="}})
    before = world.secret("shop", "login")
    world.see("Secret", {"metadata": {"namespace": "shop", "name": "login"}, "data": {"password": "b3RoZXI="}})
    after = world.secret("shop", "login")

    assert before is not None
    assert after is not None
    assert before.digests.keys() == {"password"}
    assert before != after
    assert "aHVudGVyMg" not in repr(vars(world))


def test_a_verdict_on_a_secret_lasts_as_long_as_its_contents():
    secret = {"metadata": {"namespace": "shop", "name": "login"}, "data": {"password": "aHVudGVyMg=="}}
    world = World()
    world.see("Secret", secret)
    known = world.secret("shop", "login")
    assert known is not None
    known.verdicts[Use.LOGIN] = Verdict()
    world.replace_all("Secret", world.names("Secret", "shop"), [secret])
    assert world.secret("shop", "login") is known

    world.see("Secret", secret | {"data": {"password": "b3RoZXI="}})
    changed = world.secret("shop", "login")
    assert changed is not None
    assert changed.verdicts == {}


def test_of_pods_the_status_is_kept_alone():
    world = World()
    world.see("Pod", body(spec={"big": 1}, status={"phase": "Running"}))
    (found,) = world.members(KEY)

    assert "spec" not in found
    assert found["status"] == {"phase": "Running"}


def login(version: int, uid: str = "1", generation: bytes = b"1") -> dict:
    data = {"username": b"shop.sensors.store.a", "password": b"canary", "generation": generation}
    owner = {"apiVersion": "forebay.dev/v1alpha1", "kind": "Pipeline", "name": "sensors", "uid": uid}
    metadata = {"namespace": "shop", "name": "login", "resourceVersion": str(version), "ownerReferences": [owner]}
    annotations = {"forebay.dev/issued-at": "5", "forebay.dev/rotated-for": "", "of": "somebody"}
    encoded = {key: base64.b64encode(value).decode() for key, value in data.items()}
    return {"metadata": metadata | {"annotations": annotations}, "data": encoded}


def test_of_the_secret_of_a_managed_user_it_knows_what_that_says_and_no_password():
    world = World()
    world.see("Secret", login(1))

    assert world.logins(KEY) == {
        "login": Login(
            owners=frozenset({"1"}),
            said={"username": b"shop.sensors.store.a", "generation": b"1", "password": b"there is one"},
            annotations={"forebay.dev/issued-at": "5", "forebay.dev/rotated-for": ""},
        )
    }
    kept = repr((vars(world), world.secret("shop", "login")))
    assert "canary" not in kept
    assert login(1)["data"]["password"] not in kept


def test_an_older_version_of_a_secret_is_no_news():
    """The former generation, told late, would have the new user deleted."""
    world = World()
    for version, generation in ((5, b"2"), (4, b"1"), (6, b"2"), (5, b"1")):
        world.see("Secret", login(version, generation=generation))
    assert world.logins(KEY)["login"].said["generation"] == b"2"

    world.forget("Secret", "shop", "login")
    assert world.logins(KEY) == {}
    world.see("Secret", login(1))
    assert world.logins(KEY).keys() == {"login"}


def test_a_secret_that_another_pipeline_owns_changes_sides():
    world = World()
    world.see("Secret", login(1))
    other = login(2, uid="2")
    other["metadata"]["ownerReferences"][0]["name"] = "other"
    world.see("Secret", other)

    assert world.logins(KEY) == {}
    assert world.logins(("shop", "other")).keys() == {"login"}


def test_secrets_are_no_objects_that_could_be_pruned():
    world = World()
    secret = login(1)
    secret["metadata"]["labels"] = {"forebay.dev/pipeline": "sensors"}
    world.see("Secret", secret)

    assert members(world) == []


def test_a_spec_is_another_one_when_its_content_is():
    """Of the same generation, too: the definition decides which fields are shown. A status changes nothing about it."""
    world = World()
    versions = []
    for number, change in enumerate(({"spec": {}}, {"spec": {}, "status": {"lag": "1"}}, {"spec": {"topics": []}})):
        seen = body(version=number, **change)
        seen["metadata"] |= {"uid": "1", "generation": 3}
        world.see("Pipeline", seen)
        versions.append(world.pipelines()[KEY])

    assert versions[0] == versions[1] != versions[2]
