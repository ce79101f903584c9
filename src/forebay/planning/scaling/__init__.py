"""How many replicas a consuming stage should have: pure, and the same code in the operator, `forebay run` and the simulator.

    memory, verdict = step(memory, observation, policy)

An observation (`observation.py`) is one look at Kafka and the replicas. `measuring.py` folds it into what is remembered and
a flat situation; `rules.py` decides on that. `lag.py` and `ends.py` say what lag and being behind mean; `sizing.py` what
partitions allow; `decisions.py` keeps the log, `restarting.py` what must survive a restart; `flow.py` looks at the stage that
reads what a stage writes.
"""

from forebay.planning.scaling.decisions import (
    Condition,
    Decision,
    History,
    Log,
    condition,
    decided,
    logged,
    look_again_s,
    read,
    replayed,
    step,
    stored,
)
from forebay.planning.scaling.flow import downstream_of
from forebay.planning.scaling.lag import PartitionOffsets, Start
from forebay.planning.scaling.measuring import Lasting, Memory
from forebay.planning.scaling.observation import Downstream, GroupState, Observation, group_state
from forebay.planning.scaling.policy import Behaviour, ScalingPolicy, policy_of
from forebay.planning.scaling.restarting import recalled, remembered
from forebay.planning.scaling.rules import Reason, Verdict
from forebay.planning.scaling.situation import Situation

__all__ = [
    "Behaviour",
    "Condition",
    "Decision",
    "Downstream",
    "GroupState",
    "History",
    "Lasting",
    "Log",
    "Memory",
    "Observation",
    "PartitionOffsets",
    "Reason",
    "ScalingPolicy",
    "Situation",
    "Start",
    "Verdict",
    "condition",
    "decided",
    "downstream_of",
    "group_state",
    "logged",
    "look_again_s",
    "policy_of",
    "read",
    "recalled",
    "remembered",
    "replayed",
    "step",
    "stored",
]
