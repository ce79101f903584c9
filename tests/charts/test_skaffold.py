"""skaffold.yaml, read as skaffold reads it: its files exist, and its values render what `helm install` would."""

import copy
import re

import yaml

import charts

SURROUNDINGS, PIPELINE = yaml.safe_load_all((charts.ROOT / "skaffold.yaml").read_text())
(RELEASE,) = PIPELINE["deploy"]["helm"]["releases"]
ARTIFACTS = {artifact["image"]: artifact for artifact in PIPELINE["build"]["artifacts"]}


def profiled(config: dict, name: str) -> dict:
    """The configuration with a profile's patches applied, as JSON Patch has it."""
    result = copy.deepcopy(config)
    (profile,) = (profile for profile in config["profiles"] if profile["name"] == name)
    for patch in profile.get("patches", ()):
        *above, last = patch["path"].strip("/").split("/")
        holder = result
        for step in above:
            holder = holder[int(step)] if isinstance(holder, list) else holder[step]
        if patch["op"] == "remove":
            del holder[last]
        else:
            assert patch["op"] == "add" or last in holder
            holder[last] = patch["value"]
    return result


def test_the_schema_is_the_one_that_was_tried():
    assert {config["apiVersion"] for config in (SURROUNDINGS, PIPELINE)} == {"skaffold/v4beta13"}
    assert PIPELINE["requires"] == [{"configs": [SURROUNDINGS["metadata"]["name"]]}]


def test_what_it_names_is_there():
    for path in (*SURROUNDINGS["manifests"]["rawYaml"], RELEASE["chartPath"], *RELEASE["valuesFiles"]):
        assert (charts.ROOT / path).exists()
    for artifact in ARTIFACTS.values():
        docker = artifact["docker"]
        assert (charts.ROOT / docker["dockerfile"]).is_file()
        folder = docker["buildArgs"].get("PROJECT", f"services/{docker['buildArgs']['SERVICE']}")
        assert (charts.ROOT / folder / "pyproject.toml").is_file()
        assert (charts.ROOT / f"requirements/{docker['buildArgs']['SERVICE']}.txt").is_file()
        for rule in artifact.get("sync", {}).get("manual", ()):
            assert rule["src"].startswith(rule["strip"])
            assert list(charts.ROOT.glob(rule["src"]))


def test_targets_are_stages_of_the_dockerfile():
    stages = set(re.findall(r"^FROM \S+ AS (\S+)$", (charts.ROOT / "services/Dockerfile").read_text(), re.MULTILINE))
    configs = (PIPELINE, profiled(PIPELINE, "reloading"), profiled(PIPELINE, "local"))

    assert {artifact["docker"]["target"] for config in configs for artifact in config["build"]["artifacts"]} <= stages


def test_every_image_reaches_the_chart():
    """Skaffold names an image's variables with every other character replaced by an underscore."""
    variables = {re.sub(r"[./:-]", "_", image): image for image in ARTIFACTS}
    values = yaml.safe_load((charts.ROOT / RELEASE["valuesFiles"][0]).read_text())
    settings = []
    for path, value in RELEASE["setValueTemplates"].items():
        name = re.fullmatch(r"\{\{\.IMAGE_FULLY_QUALIFIED_(\w+)\}\}", value).group(1)
        settings += ["--set", f"{path}={variables.pop(name)}:built"]
    rendered = charts.template(values, *settings)
    images = {pod["containers"][0]["image"] for pod in rendered.pods().values()}

    assert rendered.complaint == ""
    assert not variables
    assert images == {f"{image}:built" for image in ARTIFACTS}


def test_a_running_container_can_be_overwritten_in_development_alone(values):
    (release,) = profiled(PIPELINE, "reloading")["deploy"]["helm"]["releases"]
    settings = [f"{path}={str(value).lower()}" for path, value in release["setValues"].items()]
    rendered = charts.template(values, *(part for setting in settings for part in ("--set", setting)))
    roots = {pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"] for pod in rendered.pods().values()}

    assert roots == {False}
    assert "setValues" not in RELEASE
    (profile,) = (profile for profile in PIPELINE["profiles"] if profile["name"] == "reloading")
    assert profile["activation"] == [{"command": "dev"}]


def test_forwarded_ports_are_ports_of_services():
    rendered = charts.template(yaml.safe_load((charts.ROOT / RELEASE["valuesFiles"][0]).read_text()))
    services = dict(rendered.of("Service"))
    for path in SURROUNDINGS["manifests"]["rawYaml"]:
        for document in yaml.safe_load_all((charts.ROOT / path).read_text()):
            if document["kind"] == "Service":
                services[document["metadata"]["name"]] = document
    for forward in (*SURROUNDINGS["portForward"], *PIPELINE["portForward"]):
        ports = {port["port"] for port in services[forward["resourceName"]]["spec"]["ports"]}
        assert forward["port"] in ports


def test_local_images_are_used_where_asked():
    surroundings, pipeline = profiled(SURROUNDINGS, "local"), profiled(PIPELINE, "local")

    assert surroundings["manifests"] == {"kustomize": {"paths": ["manifests/dev-local"]}}
    for artifact in pipeline["build"]["artifacts"]:
        assert artifact["docker"]["buildArgs"]["BASE"] == "localhost/forebay-base:bookworm"


def test_the_test_profile_starts_every_image_and_keeps_to_its_namespace():
    (profile,) = (profile for profile in PIPELINE["profiles"] if profile["name"] == "test")
    (release,) = profiled(PIPELINE, "test")["deploy"]["helm"]["releases"]

    assert {case["image"] for case in profile["test"]} == set(ARTIFACTS)
    assert release["namespace"] == "forebay-test"
    assert "portForward" not in profiled(PIPELINE, "test")
