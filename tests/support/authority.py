"""A certificate authority for brokers and clients on loopback."""

import datetime as dt
import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from forebay_cli.embedded_kafka import BrokerOptions, EmbeddedKafka, Security

DAY = dt.timedelta(days=1)
BEFORE = -dt.timedelta(hours=1)


class Pair(NamedTuple):
    """A certificate and its private key, in PEM."""

    certificate: bytes
    private_key: bytes


class Authority:
    """Signs with a key of its own; certificates last a day from the real now on unless a test says otherwise."""

    def __init__(self, folder: Path, *, issuer: "Authority | None" = None, lasts: dt.timedelta = DAY) -> None:
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "intermediate" if issuer else "test authority")])
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        certificate = (issuer or self)._sign(self.name, self.key, constraints, BEFORE, lasts)
        self.pem = certificate.public_bytes(serialization.Encoding.PEM)
        self.file = folder / ("intermediate.pem" if issuer else "authority.pem")
        self.file.write_bytes(self.pem)

    def issue(self, common_name: str, *hosts: str) -> Path:
        """Return a PEM file with a new key and its certificate, valid for loopback and these hosts."""
        pair = self.pair(common_name, hosts=hosts)
        file = self.folder / f"{common_name}.pem"
        file.write_bytes(pair.private_key + pair.certificate)
        return file

    def pair(
        self,
        common_name: str = "client",
        *,
        begins: dt.timedelta = BEFORE,
        lasts: dt.timedelta = DAY,
        key: Any = None,
        hosts: Sequence[str] = (),
    ) -> Pair:
        """Return a certificate and its key; `begins` and `lasts` count from now."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        addresses = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), *map(x509.DNSName, ("localhost", *hosts))]
        certificate = self._sign(name, key, x509.SubjectAlternativeName(addresses), begins, lasts)
        private_key = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return Pair(certificate.public_bytes(serialization.Encoding.PEM), private_key)

    def _sign(
        self,
        subject: x509.Name,
        key: Any,
        extension: x509.ExtensionType,
        begins: dt.timedelta,
        lasts: dt.timedelta,
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)  # noqa: TID251 - a certificate is valid from the real now on
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + begins)
            .not_valid_after(now + lasts)
            .add_extension(extension, critical=False)
            .sign(self.key, hashes.SHA256())
        )


ROOT_PASSWORD = "canary-of-the-administrator"


def enforcing(authority: Authority, folder: Path) -> EmbeddedKafka:
    """A broker that enforces ACLs: `root` may do everything, `nobody` nothing. Use it as a context manager."""
    security = Security(
        key_store=authority.issue("broker"),
        trust_store=authority.file,
        scram_users={"root": ROOT_PASSWORD, "nobody": ROOT_PASSWORD},
        authorize=True,
        super_users=("User:root",),
    )
    return EmbeddedKafka.start(folder, options=BrokerOptions(security=security))
