"""What is said about Secrets: each flaw alone, in words; formats that others write pass; contents are never quoted."""

import datetime as dt
import re
import ssl

import pytest
from authority import Authority
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from forebay.pipeline.spec import Pipeline
from forebay.planning.credentials import checks, formats
from forebay.planning.credentials.formats import Use, Wanted

NOW = dt.datetime.now(dt.UTC)  # noqa: TID251 - the authority issues from the real now on
DAY = dt.timedelta(days=1)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"), lasts=365 * DAY)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("other"))


def pipeline(**kafka) -> Pipeline:
    return Pipeline.model_validate(
        {
            "metadata": {"name": "sensors"},
            "spec": {
                "kafka": {"bootstrapServers": "kafka:9093", "tls": {}, **kafka},
                "topics": [{"name": "raw", "partitions": 1}],
                "sinks": [
                    {
                        "name": "store",
                        "from": "raw",
                        "destination": {"postgres": {"secretRef": {"name": "db"}, "table": "readings"}},
                    }
                ],
            },
        }
    )


EVERYTHING = {
    "tls": {"caSecretRef": {"name": "ca"}, "clientCertificateSecretRef": {"name": "client"}},
    "sasl": {"secretRef": {"name": "user"}},
    "adminSecretRef": {"name": "admin"},
}
LOGIN = {"username": b"sam", "password": b"canary"}
DATABASE = {"uri": b"postgresql://sam:canary@db/readings"}


def said(use: Use, contents, now=NOW) -> list[str]:
    found = [str(problem) for problem in checks.problems_of("s", use, contents, now)]
    assert not [text for text in found if "canary" in text or "BEGIN PRIVATE" in text]
    return found


def judged(pipeline: Pipeline, secrets) -> list[str]:
    verdicts = [checks.judged(wanted, secrets.get(wanted.name), NOW) for wanted in formats.wanted(pipeline)]
    return [str(problem) for verdict in verdicts for problem in verdict.problems]


def client(pair, **more) -> dict[str, bytes]:
    return {"tls.crt": pair.certificate, "tls.key": pair.private_key, **more}


def test_all_secrets_that_a_pipeline_names_are_checked(authority):
    secrets = {"ca": {"ca.crt": authority.pem}, "client": client(authority.pair()), "user": LOGIN, "admin": LOGIN}

    assert judged(pipeline(**EVERYTHING), secrets) == [
        "Secret db does not exist: create it, with uri or dbname, host, password, port, user"
    ]
    assert judged(pipeline(**EVERYTHING), {**secrets, "db": DATABASE}) == []


def test_keys_that_are_missing_come_alone():
    rubbish = {
        name: dict.fromkeys(keys, b"")
        for name, keys in {
            "user": ("username",),
            "client": ("tls.crt", "ca.crt"),
            "ca": ("tls.crt",),
            "db": ("host", "port", "dbname"),
        }.items()
    }

    assert judged(pipeline(**EVERYTHING), rubbish) == [
        "Secret user lacks password: add what is missing",
        "Secret admin does not exist: create it, with password",
        "Secret ca lacks ca.crt: add what is missing",
        "Secret client lacks tls.key: add what is missing",
        "Secret db lacks uri: add what is missing",
    ]


def test_what_strimzi_and_cert_manager_write_is_understood(authority):
    pair = authority.pair()
    strimzi_user = {"ca.crt": authority.pem, "user.crt": pair.certificate, "user.key": pair.private_key}

    assert said(Use.CERTIFICATE, {**strimzi_user, "user.p12": b"\x00", "user.password": b"canary"}) == []
    assert said(Use.LOGIN, {"password": b"canary", "sasl.jaas.config": b"canary"}) == []
    assert said(Use.AUTHORITY, {"ca.crt": authority.pem, "ca.p12": b"\x00", "ca.password": b"canary"}) == []
    assert said(Use.CERTIFICATE, client(pair, **{"ca.crt": authority.pem})) == []
    assert said(Use.AUTHORITY, client(pair, **{"ca.crt": authority.pem})) == []


def test_keys_of_every_kind_fit_their_certificates(authority):
    for key in (rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1())):
        assert said(Use.CERTIFICATE, client(authority.pair(key=key))) == []
        traditional = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
        pair = authority.pair(key=key)
        assert said(Use.CERTIFICATE, {"tls.crt": pair.certificate, "tls.key": traditional}) == []


def test_a_key_of_another_certificate_is_refused(authority):
    contents = {"tls.crt": authority.pair().certificate, "tls.key": authority.pair().private_key}

    assert said(Use.CERTIFICATE, contents) == [
        "key tls.key of Secret s does not belong to the certificate: store key and certificate of one issue"
    ]


def test_an_encrypted_key_is_named_as_such(authority):
    key = ec.generate_private_key(ec.SECP256R1())
    encrypted = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"canary")
    )

    assert said(Use.CERTIFICATE, {"tls.crt": authority.pair(key=key).certificate, "tls.key": encrypted}) == [
        "key tls.key of Secret s is encrypted: store it without a passphrase"
    ]


@pytest.mark.parametrize("rubbish", [b"", b"canary", b"\xff\xfe", b"-----BEGIN CERTIFICATE-----\ncanary\n"])
def test_what_is_no_pem_is_said_to_be_none(authority, rubbish):
    pair = authority.pair()
    certificate = "holds no certificate in PEM: store the client certificate, from '-----BEGIN CERTIFICATE-----' on"

    assert said(Use.CERTIFICATE, {"tls.crt": rubbish, "tls.key": pair.private_key}) == [
        f"key tls.crt of Secret s {certificate}"
    ]
    assert said(Use.CERTIFICATE, {"tls.crt": pair.certificate, "tls.key": rubbish}) == [
        "key tls.key of Secret s holds no private key in PEM: store it as it was issued, from '-----BEGIN' to '-----END'"
    ]
    assert said(Use.AUTHORITY, {"ca.crt": rubbish}) == [
        (
            "key ca.crt of Secret s holds no certificate in PEM: store the authority's certificate, from "
            "'-----BEGIN CERTIFICATE-----' on"
        )
    ]
    assert len(said(Use.DATABASE, {**DATABASE, "ca.crt": rubbish})) == 1


def test_certificates_are_judged_by_the_time_given(authority):
    contents = client(authority.pair(lasts=10 * DAY))
    end = f"{NOW + 10 * DAY:%Y-%m-%d}"

    assert said(Use.CERTIFICATE, contents) == []
    (late,) = checks.problems_of("s", Use.CERTIFICATE, contents, NOW + 9.5 * DAY)
    assert late.is_warning
    assert str(late).startswith(f"key tls.crt of Secret s expires on {end}")
    (expired,) = checks.problems_of("s", Use.CERTIFICATE, contents, NOW + 11 * DAY)
    assert not expired.is_warning
    assert str(expired).startswith(f"key tls.crt of Secret s expired on {end}")
    (early,) = checks.problems_of("s", Use.CERTIFICATE, contents, NOW - DAY)
    assert str(early).startswith("key tls.crt of Secret s is not valid before ")


def test_a_certificate_of_a_year_is_late_for_two_weeks(authority):
    contents = client(authority.pair(lasts=300 * DAY))

    assert said(Use.CERTIFICATE, contents, NOW + 285 * DAY) == []
    assert len(said(Use.CERTIFICATE, contents, NOW + 287 * DAY)) == 1


def test_a_chain_is_in_order(authority, tmp_path):
    intermediate = Authority(tmp_path, issuer=authority)
    pair = intermediate.pair()
    chain = client(pair._replace(certificate=pair.certificate + intermediate.pem), **{"ca.crt": authority.pem})
    torn = client(pair._replace(certificate=pair.certificate + authority.pem))

    assert said(Use.CERTIFICATE, chain) == []
    assert said(Use.CERTIFICATE, torn) == [
        (
            "key tls.crt of Secret s holds certificates that are no chain, each issued by the next: store the client certificate "
            "first, then its issuer, and so on"
        )
    ]


def test_an_expired_intermediate_is_found(authority, tmp_path):
    intermediate = Authority(tmp_path, issuer=authority, lasts=DAY / 2)
    pair = intermediate.pair()
    contents = client(pair._replace(certificate=pair.certificate + intermediate.pem))

    assert ["expired on" in text for text in said(Use.CERTIFICATE, contents, NOW + 0.6 * DAY)] == [True]


def test_another_issuer_beside_the_certificate_is_only_a_warning(authority, other):
    (found,) = checks.problems_of("s", Use.CERTIFICATE, client(authority.pair(), **{"ca.crt": other.pem}), NOW)

    assert found.is_warning
    assert found.key == "tls.crt"


def test_a_bundle_of_authorities_works_while_one_is_valid(authority, other):
    bundle = {"ca.crt": other.pem + authority.pem}

    assert said(Use.AUTHORITY, bundle) == []
    (outlived,) = checks.problems_of("s", Use.AUTHORITY, bundle, NOW + 2 * DAY)
    assert outlived.is_warning
    assert [found.is_warning for found in checks.problems_of("s", Use.AUTHORITY, bundle, NOW + 400 * DAY)] == [
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"canary\ncanary", "line break"),
        (b"canary\x00", "control character"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_logins_are_lines_of_text(value, wrong):
    (password,) = said(Use.LOGIN, {"username": b"sam\n", "password": value})
    (user,) = said(Use.LOGIN, {"username": value, "password": b"canary\n"})

    assert wrong in password
    assert password.startswith("key password of Secret s ")
    assert user.startswith("key username of Secret s ")


def test_the_ends_of_certificates_are_known_by_key(authority, other):
    pair = authority.pair(lasts=10 * DAY)

    assert {"tls.crt"} == checks.valid_until(Use.CERTIFICATE, client(pair)).keys()
    assert checks.valid_until(Use.CERTIFICATE, client(pair))["tls.crt"].date() == (NOW + 10 * DAY).date()
    ends = checks.valid_until(Use.AUTHORITY, {"ca.crt": other.pem + authority.pem})
    assert ends["ca.crt"].date() == (NOW + 365 * DAY).date()
    assert checks.valid_until(Use.DATABASE, {**DATABASE, "ca.crt": other.pem + authority.pem}) == ends
    assert checks.valid_until(Use.LOGIN, LOGIN) == {}
    assert checks.valid_until(Use.AUTHORITY, {"ca.crt": b"canary"}) == {}


@pytest.mark.parametrize(
    ("use", "make"),
    [
        (Use.CERTIFICATE, lambda pair, other: client(pair, **{"ca.crt": other})),
        (Use.AUTHORITY, lambda pair, other: {"ca.crt": pair.certificate + other}),
        (Use.DATABASE, lambda pair, _other: {**DATABASE, "ca.crt": pair.certificate}),
    ],
    ids=lambda value: value if isinstance(value, Use) else "",
)
def test_a_verdict_stays_true_until_the_time_that_it_names(authority, other, use, make):
    contents = make(authority.pair(begins=DAY, lasts=10 * DAY), other.pem)
    verdict = checks.judged(Wanted("s", use), contents, NOW)
    told = set()
    while verdict.until is not None:
        assert list(verdict.problems) == list(
            checks.problems_of("s", use, contents, verdict.until - dt.timedelta(seconds=1))
        )
        told.add(verdict.problems)
        verdict = checks.judged(Wanted("s", use), contents, verdict.until)
    for later in (DAY, 3650 * DAY):
        assert list(verdict.problems) == list(checks.problems_of("s", use, contents, NOW + 11 * DAY + later))

    assert len(told | {verdict.problems}) > 2


def test_what_holds_no_certificate_stays_as_it_is_judged():
    assert checks.judged(Wanted("s", Use.LOGIN), LOGIN, NOW) == checks.Verdict()
    assert checks.judged(Wanted("s", Use.AUTHORITY), {"ca.crt": b"canary"}, NOW).until is None
    assert checks.judged(Wanted("s", Use.AUTHORITY), None, NOW).until is None


def test_a_certificate_until_the_end_of_time_is_fine(tmp_path):
    for_ever = Authority(tmp_path, lasts=dt.datetime.max.replace(tzinfo=dt.UTC) - NOW - DAY)
    verdict = checks.judged(Wanted("s", Use.AUTHORITY), {"ca.crt": for_ever.pem}, NOW)

    assert verdict.problems == ()
    assert checks.judged(Wanted("s", Use.AUTHORITY), {"ca.crt": for_ever.pem}, verdict.until).problems != ()


def test_a_certificate_of_a_year_that_no_calendar_has_is_none(authority):
    der = ssl.PEM_cert_to_DER_cert(authority.pair(lasts=40 * 365 * DAY).certificate.decode())
    end = re.search(rb"\x18\x0f(20\d{2})", der)
    assert end is not None
    broken = ssl.DER_cert_to_PEM_cert(der[: end.start(1)] + b"0000" + der[end.end(1) :]).encode()

    (text,) = said(Use.AUTHORITY, {"ca.crt": broken})
    assert "holds no certificate in PEM" in text


def test_a_kind_of_key_that_is_not_known_belongs_to_no_other(authority):
    der = ssl.PEM_cert_to_DER_cert(authority.pair().certificate.decode())
    curve = bytes.fromhex("06082a8648ce3d030107")
    assert der.count(curve) == 1
    strange = ssl.DER_cert_to_PEM_cert(der.replace(curve, curve[:-1] + b"\x63")).encode()

    (text,) = said(Use.CERTIFICATE, client(authority.pair()._replace(certificate=strange)))
    assert "does not belong to the certificate" in text
