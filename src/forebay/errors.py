"""Errors named by what the caller must do.

Library errors are chained below one of these and never leak to a user. `str(error)` is one sentence that names
the cause and the cure; it never holds a credential.
"""


class ForebayError(Exception):
    """The root of every error that Forebay raises on purpose."""


class InvalidPipeline(ForebayError):  # noqa: N818 - named by what is wrong, as a user reads it
    """The Pipeline file must be edited; retrying cannot help."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class MissingSecret(ForebayError):  # noqa: N818
    """A referenced Secret, or a key in it, is not there (yet)."""


class TryLater(ForebayError):  # noqa: N818
    """The world is not ready: wait and ask again."""


class Untrusted(TryLater):
    """TLS fails: one side does not trust the other's certificate."""


class Undeliverable(ForebayError):  # noqa: N818
    """This record cannot be processed, others can: it belongs in the dead-letter topic.

    Raise it in a Python transform to send a record there; the message becomes the reason.
    """


class LostOwnership(ForebayError):  # noqa: N818
    """The partition belongs to another member now: drop the batch, the new owner has it."""


class Fatal(ForebayError):  # noqa: N818
    """This process cannot continue; a fresh one can. Exit non-zero and be restarted."""


class Refused(ForebayError):  # noqa: N818
    """Nothing but a human decision helps; restarting cannot. Exit with status 78 and stay down."""


class Forbidden(Refused):
    """Whoever was asked does not let this user in, or do this: a person must act, and then it goes on by itself."""


class LoginRefused(Forbidden):
    """Kafka knows no such user, or another password."""
