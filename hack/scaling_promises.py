"""Hold a report of `forebay simulate --policy all` against what Forebay's scaling promises beside its peers.

    python hack/scaling_promises.py REPORT.json ...

Every report by itself: on no trace does a peer need at most our seconds over and at most our replica-hours, one of them less; and
summed over the traces, beside the peer with the fewest seconds over: at most half its seconds, at most 1.05 times its
replica-hours, at most 1.5 times its rescales; and at most 1.3 times the oracle's replica-hours. Exit code: 0 when all of it
holds.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PEERS = ("keda", "keda-tuned", "numaflow", "numaflow-tuned", "flink", "flink-tuned")
Figures = dict[str, float]


def findings(report: dict[str, dict[str, Figures]]) -> Iterator[tuple[bool, str]]:
    """What holds and what does not, in sentences."""
    peers = [name for name in PEERS if all(name in policies for policies in report.values())]
    for trace, policies in report.items():
        ours = policies["forebay"]
        for peer in peers:
            if _beats(policies[peer], ours):
                yield False, f"{trace}: {peer} {_both(policies[peer])} beats forebay {_both(ours)}"
    total = {name: _sum(report, name) for name in ("forebay", "oracle", *peers)}
    ours, best = total["forebay"], min(peers, key=lambda name: total[name]["seconds_over"])
    for key, factor, other in (
        ("seconds_over", 0.5, best),
        ("replica_hours", 1.05, best),
        ("rescales", 1.5, best),
        ("replica_hours", 1.3, "oracle"),
    ):
        limit = factor * total[other][key]
        words = f"{key}: {ours[key]:.1f}, {ours[key] / max(total[other][key], 1e-9):.2f} of {other}'s {total[other][key]:.1f}"
        yield ours[key] <= limit, f"{words}; at most {factor}"


def _beats(peer: Figures, ours: Figures) -> bool:
    pairs = [(peer[key], ours[key]) for key in ("seconds_over", "replica_hours")]
    return all(one <= other for one, other in pairs) and any(one < other for one, other in pairs)


def _both(figures: Figures) -> str:
    return f"({figures['seconds_over']:.1f} s over, {figures['replica_hours']:.2f} replica-hours)"


def _sum(report: dict[str, dict[str, Figures]], name: str) -> Figures:
    keys = ("seconds_over", "replica_hours", "rescales")
    return {key: sum(policies[name][key] for policies in report.values()) for key in keys}


def main() -> None:
    """Print the findings of each report."""
    everything_holds = True
    for file in sys.argv[1:]:
        report: Any = json.loads(Path(file).read_text())
        print(file)
        for holds, sentence in findings(report):
            everything_holds &= holds
            print(f"  {'holds' if holds else 'FAILS'}: {sentence}")
    sys.exit(not everything_holds)


if __name__ == "__main__":
    main()
