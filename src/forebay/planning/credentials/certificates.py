"""What is wrong with certificates and private keys in PEM, as what is wrong and its cure. Their content is never quoted."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

_LATE = 10
"""A certificate is renewed late when less than a tenth of its life is left: cert-manager renews with a third left ..."""
_LATE_AT_MOST = timedelta(days=14)
"""... and two weeks are enough for a person."""


class Flaw(NamedTuple):
    """One thing that is wrong."""

    wrong: str
    cure: str
    is_warning: bool = False
    """It works today."""


def authority_flaws(pem: bytes, now: datetime) -> Iterator[Flaw]:
    """What is wrong with a file of trusted authorities. One that has expired beside a valid one is only untidy."""
    certificates = _certificates(pem)
    if not certificates:
        yield _no_certificate("the authority's certificate")
        return
    usable = [certificate for certificate in certificates if not list(_time_flaws(certificate, now))]
    if usable and len(certificates) > 1:
        if any(certificate.not_valid_after_utc <= now for certificate in certificates):
            yield Flaw("holds a certificate that has expired", "remove it once no broker uses it", is_warning=True)
        return
    for certificate in certificates:
        yield from _time_flaws(certificate, now)
        yield from _lateness(certificate, now)


def certificate_flaws(pem: bytes, now: datetime) -> Iterator[Flaw]:
    """What is wrong with a client certificate, and with the intermediate ones that follow it."""
    chain = _certificates(pem)
    if not chain:
        yield _no_certificate("the client certificate")
        return
    for certificate in chain:
        yield from _time_flaws(certificate, now)
    yield from _lateness(chain[0], now)
    if any(not _is_issued_by(certificate, issuer) for certificate, issuer in pairwise(chain)):
        yield Flaw(
            "holds certificates that are no chain, each issued by the next",
            "store the client certificate first, then its issuer, and so on",
        )


def issuer_flaws(pem: bytes, authority: bytes) -> Iterator[Flaw]:
    """Whether a client certificate comes from an authority of the same Secret; where either cannot be read: nothing.

    Only a warning, for the brokers may trust another authority than the one that is stored beside the certificate.
    """
    chain, authorities = _certificates(pem), _certificates(authority)
    if chain and authorities and not any(chain[-1] == each or _is_issued_by(chain[-1], each) for each in authorities):
        yield Flaw(
            "was not issued by the authority in ca.crt of the same Secret",
            "check that the brokers trust its issuer",
            is_warning=True,
        )


def private_key_flaws(pem: bytes, certificate: bytes) -> Iterator[Flaw]:
    """What is wrong with a private key, and whether it is the certificate's; where that cannot be read: unknown."""
    try:
        # Whether the numbers of an RSA key are prime is left out: that takes half a second, and the key is not used here.
        key = serialization.load_pem_private_key(pem, password=None, unsafe_skip_rsa_key_validation=True)
    except TypeError:
        yield Flaw("is encrypted", "store it without a passphrase")
        return
    except (ValueError, UnsupportedAlgorithm):
        yield Flaw("holds no private key in PEM", "store it as it was issued, from '-----BEGIN' to '-----END'")
        return
    chain = _certificates(certificate)
    if chain and not _belongs_to(key, chain[0]):
        yield Flaw("does not belong to the certificate", "store key and certificate of one issue")


def valid_until(pem: bytes, *, is_bundle: bool) -> datetime | None:
    """When a certificate and its chain expire, or the last authority of a bundle; None where there is none."""
    ends = [certificate.not_valid_after_utc for certificate in _certificates(pem)]
    if not ends:
        return None
    return max(ends) if is_bundle else min(ends)


def changes(pem: bytes) -> Iterator[datetime]:
    """The moments from which on certificates are judged differently."""
    for certificate in _certificates(pem):
        yield certificate.not_valid_before_utc
        yield _late_from(certificate)
        yield certificate.not_valid_after_utc


def _certificates(pem: bytes) -> Sequence[x509.Certificate]:
    try:
        found = x509.load_pem_x509_certificates(pem)
        for certificate in found:  # years that no calendar has pass until they are asked for
            _ = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    except ValueError:
        return ()
    return found


def _no_certificate(what: str) -> Flaw:
    return Flaw("holds no certificate in PEM", f"store {what}, from '-----BEGIN CERTIFICATE-----' on")


def _time_flaws(certificate: x509.Certificate, now: datetime) -> Iterator[Flaw]:
    if certificate.not_valid_after_utc <= now:
        yield Flaw(f"expired on {_day(certificate.not_valid_after_utc)}", "renew it")
    if certificate.not_valid_before_utc > now:
        yield Flaw(
            f"is not valid before {_day(certificate.not_valid_before_utc)}",
            "wait until then, or check the clock of its issuer",
        )


def _lateness(certificate: x509.Certificate, now: datetime) -> Iterator[Flaw]:
    end = certificate.not_valid_after_utc
    if _late_from(certificate) <= now < end:
        yield Flaw(f"expires on {_day(end)}", "renew it before", is_warning=True)


def _late_from(certificate: x509.Certificate) -> datetime:
    end = certificate.not_valid_after_utc
    return end - min(_LATE_AT_MOST, (end - certificate.not_valid_before_utc) / _LATE)


def _is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _belongs_to(key: PrivateKeyTypes, certificate: x509.Certificate) -> bool:
    try:
        return _public(key.public_key()) == _public(certificate.public_key())
    except (ValueError, UnsupportedAlgorithm):  # a kind of key that is not known
        return False


def _public(key: object) -> bytes:
    encoded: bytes = key.public_bytes(  # type: ignore[attr-defined]  # every kind of key in a certificate has it
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return encoded


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
