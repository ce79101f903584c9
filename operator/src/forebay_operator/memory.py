"""What is remembered of a Pipeline between rounds."""

from dataclasses import dataclass, field

from forebay.planning import topics
from forebay.planning.credentials.users import Present
from forebay.planning.objects import ObjectKey
from forebay.planning.reporting import Figure, Told


@dataclass(slots=True, kw_only=True)
class Memory:
    """What is remembered of a Pipeline between rounds. All of it may be lost."""

    uid: str
    fingerprints: dict[ObjectKey, str]
    known_topics: topics.Observed | None = None
    topics_at: float = 0.0
    topics_generation: int = -1
    known_users: Present | None = None
    """Those of its managed users that there are, and what they may do."""
    users_at: float = 0.0
    users_generation: int = -1
    made: dict[str, float] = field(default_factory=dict)
    """When users were given a password, on the monotonic clock."""
    credentials: dict[str, float] = field(default_factory=dict)
    """When the users of stages were written to their Secrets, as metrics show it."""
    shown: dict[Figure, float] = field(default_factory=dict)
    """The numbers in the status, before rounding."""
    expiries: dict[tuple[str, str], float] = field(default_factory=dict)
    """The ends of certificates that metrics show, by Secret and key."""
    told: dict[str, Told] = field(default_factory=dict)
    """By stage, the verdict in the words of the status."""
    waits: dict[str, str] = field(default_factory=dict)
    """By pod, what it waits for."""
    written_at: float
    """When its status was written last, or this memory begun: numbers are not taken back because the operator is new."""

    def distrust_topics(self) -> None:
        """Something was changed: look again."""
        self.known_topics = None

    def distrust_users(self) -> None:
        """The same for users."""
        self.known_users = None
