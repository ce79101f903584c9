"""What to do about a process that ended: a pure decision over how it lived and what came before.

Two counters, because they answer two questions. How soon may it start again: `deaths` in a row without a healthy while
between them. Is there any hope: `fruitless` lives in a row, which neither stayed ready nor moved a record. A replica that is
killed again and again but makes progress is restarted for ever; one that dies on the same record every time is not.
"""

import signal
from dataclasses import dataclass
from enum import Enum, auto

from forebay.runtime.health import STUCK_EXIT_STATUS
from forebay.runtime.service import REFUSED_EXIT_STATUS

FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 10.0
HEALTHY_AFTER_S = 10.0
"""Ready for so long, a life was a good one: the next death is the first again."""
FRUITLESS_LIVES = 6
"""So many lives without anything achieved (about 15 s of back-off) are a crash loop."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Life:
    """One process, from start to end."""

    returncode: int
    """Its exit status, or minus the number of the signal that killed it, as `subprocess` has it."""
    ready_s: float
    """For how long it was seen ready."""
    progressed: bool
    """Whether it moved a record."""


@dataclass(frozen=True, slots=True)
class History:
    """The lives in a row that count against a replica."""

    deaths: int = 0
    fruitless: int = 0

    def after(self, life: Life) -> "History":
        """The history with one more death."""
        healthy = life.ready_s >= HEALTHY_AFTER_S
        return History(
            deaths=1 if healthy else self.deaths + 1,
            fruitless=0 if healthy or life.progressed else self.fruitless + 1,
        )


class End(Enum):
    """The ends that no restart follows."""

    COMPLETED = auto()
    """A bounded source sent everything."""
    REFUSED = auto()
    """Nothing but an edit helps."""
    CRASH_LOOP = auto()
    """It dies again and again and achieves nothing."""


def decide(history: History, life: Life, *, may_complete: bool, jitter: float) -> float | End:
    """The seconds to wait before the next start, or why there is none. `history` includes this life.

    `jitter` (0..1) spreads replicas that died together over the second half of the delay.
    """
    if life.returncode == 0 and may_complete:
        return End.COMPLETED
    if life.returncode == REFUSED_EXIT_STATUS:
        return End.REFUSED
    if history.fruitless >= FRUITLESS_LIVES:
        return End.CRASH_LOOP
    delay = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** min(history.deaths - 1, 16))
    return delay * (0.5 + 0.5 * jitter)


def cause(returncode: int) -> str:
    """How a process ended, in words."""
    if returncode < 0:
        try:
            return f"killed by {signal.Signals(-returncode).name}"
        except ValueError:
            return f"killed by signal {-returncode}"
    if returncode == STUCK_EXIT_STATUS:
        return f"stuck in a call that did not return (exit status {returncode})"
    if returncode == REFUSED_EXIT_STATUS:
        return f"refused (exit status {returncode})"
    return f"exit status {returncode}"
