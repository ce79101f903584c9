import pytest

from forebay.errors import MissingSecret
from forebay.pipeline.spec import SecretRef
from forebay_sink.destinations.postgres import connection_parameters

REF = SecretRef(name="db")
KEYS = {"host": "h", "port": "1", "dbname": "d", "user": "u", "password": "p w'1"}


def parameters(folder, **keys: str):
    (folder / "db").mkdir()
    for key, text in keys.items():
        (folder / "db" / key.replace("ca_crt", "ca.crt")).write_text(text)
    return connection_parameters(folder, REF)


def test_single_keys_are_taken_as_they_stand_and_tls_is_required(tmp_path):
    found = parameters(tmp_path, **KEYS)

    assert {key: found[key] for key in KEYS} == KEYS
    assert found["sslmode"] == "require"


def test_an_authority_makes_the_server_prove_itself(tmp_path):
    found = parameters(tmp_path, **KEYS, ca_crt="PEM")

    assert (found["sslmode"], found["sslrootcert"]) == ("verify-full", str(tmp_path / "db" / "ca.crt"))


def test_the_secret_may_choose_another_sslmode(tmp_path):
    assert parameters(tmp_path, **KEYS, sslmode="disable")["sslmode"] == "disable"


def test_a_uri_is_read_whole(tmp_path):
    found = parameters(tmp_path, uri="postgresql://u:p%40@h:5/d?sslmode=prefer\n")

    assert (found["password"], found["port"], found["sslmode"]) == ("p@", "5", "prefer")


def test_a_broken_uri_is_not_quoted(tmp_path):
    with pytest.raises(MissingSecret) as error:
        parameters(tmp_path, uri="postgresql://u:secret@h:5/d?nonsense=1")

    assert "secret" not in str(error.value).replace("Secret", "")
    assert error.value.__cause__ is None


def test_a_missing_key_is_named(tmp_path):
    with pytest.raises(MissingSecret, match="'password' of Secret 'db'"):
        parameters(tmp_path, **{key: text for key, text in KEYS.items() if key != "password"})
