"""`forebay validate`, `forebay schema`, and what becomes of a user's mistakes."""

import pytest
from typer.testing import CliRunner

from forebay.pipeline import schema
from forebay_cli.main import app

VALID = """\
apiVersion: forebay.dev/v1alpha1
kind: Pipeline
metadata: {name: sensors}
spec:
  kafka: {bootstrapServers: "kafka:9092"}
  topics: [{name: raw, partitions: 4}]
  producers: [{name: devices, to: raw, source: {simulator: {}}}]
"""


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "pipeline.yaml"
    file.write_text(VALID)
    return file


def forebay(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_valid_file_is_said_to_be(file):
    result = forebay("validate", file)

    assert (0, f"{file}: valid: Pipeline sensors: 1 topic, 1 producer\n") == (result.exit_code, result.stdout)


def test_problems_of_all_files_are_listed_and_the_valid_ones_too(file, tmp_path):
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(VALID.replace("to: raw", "to: row"))

    result = forebay("validate", wrong, file, tmp_path / "missing.yaml")

    assert result.exit_code == 2
    assert result.stdout.startswith(f"{file}: valid")
    assert f"{wrong}:7: spec.producers[0].to: topic 'row' is not declared" in result.stderr
    assert f"{tmp_path / 'missing.yaml'}: cannot be read: No such file or directory" in result.stderr


@pytest.mark.parametrize("verb", ["plan", "apply"])
def test_an_invalid_file_ends_every_verb_with_2(file, verb):
    file.write_text("kind: Pipeline")

    result = forebay(verb, file, "--bootstrap", "127.0.0.1:1")

    assert result.exit_code == 2
    assert "Traceback" not in result.output


@pytest.mark.parametrize("address", ["nonsense", "host:port", "a b:1", "http://a:1"])
def test_an_address_that_is_none_is_a_usage_error(file, address):
    result = forebay("plan", file, "--bootstrap", address)

    assert result.exit_code == 2
    assert "is not HOST:PORT" in result.stderr


def test_a_missing_secret_names_the_flag(file):
    kafka = 'kafka: {bootstrapServers: "k:1", tls: {}, sasl: {secretRef: {name: user}}}'
    file.write_text(VALID.replace('kafka: {bootstrapServers: "kafka:9092"}', kafka))

    result = forebay("plan", file)

    assert result.exit_code == 1
    assert result.stderr.startswith("forebay: Secret 'user' is needed")
    assert "--secrets DIR" in result.stderr


@pytest.mark.parametrize(
    ("sasl", "users"),
    [
        (
            "users: Managed}, adminSecretRef: {name: admin}",
            ["default.sensors.devices.a", "default.sensors.devices.b"],
        ),
        ("secretRef: {name: sam}}", ["USER"]),
    ],
)
def test_the_acls_are_printed_as_commands_without_asking_kafka(file, sasl, users):
    kafka = f'kafka: {{bootstrapServers: "k:1", tls: {{}}, sasl: {{{sasl}}}'
    file.write_text(VALID.replace('kafka: {bootstrapServers: "kafka:9092"}', kafka))

    lines = forebay("plan", file, "--acls").stdout.splitlines()

    begin = "kafka-acls --bootstrap-server k:1 --command-config admin.properties --add --allow-principal"
    assert lines == [
        f"{begin} User:{user} --operation {allowed}"
        for user in users
        for allowed in (
            "Write --topic raw",
            "Read --topic default.sensors.devices.positions",
            "Write --topic default.sensors.devices.positions",
            "Write --transactional-id default.sensors.devices. --resource-pattern-type prefixed",
        )
    ]


def test_the_acls_name_the_user_of_the_secret(file, tmp_path):
    (tmp_path / "sam").mkdir()
    (tmp_path / "sam" / "username").write_text("samuel\n")
    kafka = 'kafka: {bootstrapServers: "k:1", tls: {}, sasl: {secretRef: {name: sam}}}'
    file.write_text(VALID.replace('kafka: {bootstrapServers: "kafka:9092"}', kafka))

    assert "User:samuel " in forebay("plan", file, "--acls", "--secrets", tmp_path).stdout


def test_without_a_login_there_are_no_acls(file):
    result = forebay("plan", file, "--acls")

    assert (result.exit_code, result.stdout) == (1, "")
    assert "add sasl" in result.stderr


def test_the_schema_is_printed():
    assert forebay("schema").stdout == schema.crd_yaml()


def test_the_version_is_printed():
    result = forebay("--version")

    assert (result.exit_code, result.stdout[:8]) == (0, "forebay ")
