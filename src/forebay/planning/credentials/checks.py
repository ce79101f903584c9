"""What is wrong with Secrets: each problem with Secret, key and cure, never with content."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from forebay.planning.credentials import certificates, formats
from forebay.planning.credentials.certificates import Flaw
from forebay.planning.credentials.formats import ALTERNATIVES, AUTHORITY, PASSWORD, USERNAME, Use, Wanted

Contents = Mapping[str, bytes]
"""What a Secret holds, by key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something is wrong with a Secret, or with a key of it."""

    secret: str
    key: str | None = None
    """None: with the Secret as a whole."""
    wrong: str
    cure: str
    is_warning: bool = False
    """It works today: a reason to tell, none to refuse."""

    def __str__(self) -> str:
        place = f"Secret {self.secret}" if self.key is None else f"key {self.key} of Secret {self.secret}"
        return f"{place} {self.wrong}: {self.cure}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What there is to know of a Secret, so that its contents need not be kept."""

    problems: tuple[Problem, ...] = ()
    ends: Mapping[str, datetime] = field(default_factory=dict)
    """When its certificates expire, by key."""
    until: datetime | None = None
    """From then on it may be judged differently, without a change of the Secret; None: never."""


def judged(wanted: Wanted, contents: Contents | None, now: datetime) -> Verdict:
    """Everything that is wrong with one Secret, and how long that stays true.

    Args:
        wanted: which Secret, and what for.
        contents: what it holds; None where there is no such Secret.
        now: with a time zone; certificates are judged by it.
    """
    found = tuple(problems_of(wanted.name, wanted.use, contents, now))
    if contents is None:
        return Verdict(problems=found)
    key = _certificate_key(wanted.use, contents)
    changes = () if key is None else certificates.changes(contents[key])
    return Verdict(
        problems=found,
        ends=valid_until(wanted.use, contents),
        until=min((moment for moment in changes if moment > now), default=None),
    )


def problems_of(secret: str, use: Use, contents: Contents | None, now: datetime) -> Iterator[Problem]:
    """Everything that is wrong with one Secret; keys that are missing come first, and alone."""
    missing = _incomplete(secret, use, contents)
    if contents is None or missing is not None:
        if missing is not None:
            yield missing
        return
    for key, flaw in _CHECKS[use](contents, now):
        yield Problem(secret=secret, key=key, wrong=flaw.wrong, cure=flaw.cure, is_warning=flaw.is_warning)


def valid_until(use: Use, contents: Contents) -> dict[str, datetime]:
    """When the certificates in a Secret expire, by key."""
    key = _certificate_key(use, contents)
    if key is None:
        return {}
    end = certificates.valid_until(contents[key], is_bundle=use is not Use.CERTIFICATE)
    return {} if end is None else {key: end}


def _certificate_key(use: Use, contents: Contents) -> str | None:
    """Where the certificates stand that are judged by the time, if there are any."""
    key = formats.certificate_keys(contents).certificate if use is Use.CERTIFICATE else AUTHORITY
    return key if use is not Use.LOGIN and key in contents else None


def _incomplete(secret: str, use: Use, keys: Collection[str] | None) -> Problem | None:
    alternatives = ALTERNATIVES[use]
    if keys is None:
        needed = " or ".join(", ".join(sorted(each)) for each in alternatives)
        return Problem(secret=secret, wrong="does not exist", cure=f"create it, with {needed}")
    if any(each <= set(keys) for each in alternatives):
        return None
    missing = min((sorted(each.difference(keys)) for each in alternatives), key=len)
    return Problem(secret=secret, wrong=f"lacks {', '.join(missing)}", cure="add what is missing")


Found = Iterator[tuple[str, Flaw]]
"""What is wrong, by key."""


def _authority(contents: Contents, now: datetime) -> Found:
    for flaw in certificates.authority_flaws(contents[AUTHORITY], now):
        yield AUTHORITY, flaw


def _certificate(contents: Contents, now: datetime) -> Found:
    keys = formats.certificate_keys(contents)
    certificate = contents[keys.certificate]
    for flaw in certificates.certificate_flaws(certificate, now):
        yield keys.certificate, flaw
    for flaw in certificates.private_key_flaws(contents[keys.private_key], certificate):
        yield keys.private_key, flaw
    if AUTHORITY in contents:
        for flaw in certificates.issuer_flaws(certificate, contents[AUTHORITY]):
            yield keys.certificate, flaw


def _login(contents: Contents, _now: datetime) -> Found:
    for key in (USERNAME, PASSWORD):
        if key in contents:
            for flaw in _text_flaws(contents[key]):
                yield key, flaw


def _database(contents: Contents, now: datetime) -> Found:
    for keys in ALTERNATIVES[Use.DATABASE]:
        if keys <= contents.keys():
            for key in sorted(keys):
                for flaw in _text_flaws(contents[key]):
                    yield key, flaw
            break
    if AUTHORITY in contents:
        yield from _authority(contents, now)


def _text_flaws(text: bytes) -> Iterator[Flaw]:
    """One newline at the end is an editor's and is passed over by those who read."""
    try:
        value = text.decode().removesuffix("\n")
    except UnicodeDecodeError:
        yield Flaw("is not UTF-8 text", "store it as text")
        return
    if not value:
        yield Flaw("is empty", "store its value")
    elif any(character < " " or character == "\x7f" for character in value):
        yield Flaw("holds a line break or another control character", "store it in one line")


_CHECKS: dict[Use, Callable[[Contents, datetime], Found]] = {
    Use.AUTHORITY: _authority,
    Use.CERTIFICATE: _certificate,
    Use.LOGIN: _login,
    Use.DATABASE: _database,
}
