"""`python benchmarks/run.py [--quick]`: this processor and its peers on one broker, in one run, alternating.

Prints a table, then latency, restore and scaling; writes results/latest.json (--quick: the table alone,
results/quick.json). See README.md beside it.
"""

import argparse
import signal
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import operation
import report
from observing import Failed, Figures
from subjects import (
    Amounts,
    Bench,
    Floor,
    Forebay,
    KafkaStreams,
    KafkaStreamsByHand,
    Naive,
    QuixStreams,
    Subject,
    Unavailable,
    create_topic,
)
from workload import Wrong, fill

from forebay.errors import ForebayError
from forebay_cli.embedded_kafka import BrokerOptions, EmbeddedKafka, EmbeddedKafkaError

RESULTS = Path(__file__).parent / "results"
_SLACK = 300_000
"""Records behind the measured ones, so that nobody runs dry while being measured."""

FULL = {
    "forebay": Amounts(warm_up=1_000_000, measured=3_000_000),
    "floor": Amounts(warm_up=1_000_000, measured=3_000_000),
    "naive": Amounts(warm_up=250_000, measured=1_000_000),
    "quix_streams": Amounts(warm_up=100_000, measured=400_000),
    "kafka_streams": Amounts(warm_up=1_000_000, measured=3_000_000),
    "kafka_streams_by_hand": Amounts(warm_up=1_000_000, measured=3_000_000),
}
QUICK = {
    "forebay": Amounts(warm_up=500_000, measured=1_500_000),
    "floor": Amounts(warm_up=500_000, measured=1_500_000),
    "naive": Amounts(warm_up=100_000, measured=300_000),
    "quix_streams": Amounts(warm_up=50_000, measured=100_000),
    "kafka_streams": Amounts(warm_up=1_000_000, measured=1_000_000),
    "kafka_streams_by_hand": Amounts(warm_up=1_000_000, measured=1_000_000),
}
"""The slow ones get fewer records. Only Java needs a long warm-up: its compiler works on while it runs."""


def main() -> int:
    """Run it; the exit status is 1 when something failed."""
    options = _options()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that every process is ended on this way, too
    forebay = Forebay()
    subjects: list[Subject] = [forebay, Floor(forebay), Naive(), QuixStreams(), KafkaStreams(), KafkaStreamsByHand()]
    subjects = [each for each in subjects if not options.only or each.name in options.only]
    amounts = QUICK if options.quick else FULL
    begun = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - begun:6.0f} s  {text}", flush=True)

    machine = report.machine()
    say(f"{machine['cores']} cores, Python {machine['python']}, load average before: {machine['load_average']}")
    try:
        subjects, absent = _prepared(subjects, say)
        report.settings({each.title: each.settings() for each in subjects})
        with tempfile.TemporaryDirectory(prefix="forebay-bench-") as folder, _broker(Path(folder), say) as broker:
            bench = _filled(broker, Path(folder), amounts, say)
            results = _alternate(
                bench, subjects, amounts, rounds=options.rounds or (3 if options.quick else 5), say=say
            )
            print()
            report.table(results, {each.name: each.title for each in subjects})
            for line in absent:
                print(line)
            more: dict[str, Any] = {"machine": machine}
            if not options.quick and "forebay" in results:
                print()
                capacity = median(run.records_per_second for run in results["forebay"])
                more |= operation.run(bench, capacity, amounts["forebay"], say)
    except (EmbeddedKafkaError, ForebayError, Failed, Wrong) as error:
        print(f"the benchmark failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    if not options.only:
        file = RESULTS / ("quick.json" if options.quick else "latest.json")
        RESULTS.mkdir(exist_ok=True)
        file.write_text(report.as_json(results, more))
        say(f"written to {file}")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="This processor and its peers on one broker, alternating.")
    parser.add_argument("--quick", action="store_true", help="the first table alone, with fewer records and rounds")
    parser.add_argument("--rounds", type=int, help="how often each subject runs")
    parser.add_argument(
        "--only", nargs="*", help="these subjects alone, by their names in the results; writes no results"
    )
    return parser.parse_args()


def _prepared(subjects: list[Subject], say: report.Say) -> tuple[list[Subject], list[str]]:
    ready, absent = [], []
    for subject in subjects:
        say(f"preparing {subject.title}")
        try:
            subject.prepare()
            ready.append(subject)
        except Unavailable as error:
            absent.append(f"{subject.title} was left out: {error}")
            say(absent[-1])
    return ready, absent


def _broker(folder: Path, say: report.Say) -> EmbeddedKafka:
    options = BrokerOptions(full_compiler=True, heap_mebibytes=2048)
    return EmbeddedKafka.start(folder / "kafka", options=options, on_progress=say)


def _filled(broker: EmbeddedKafka, folder: Path, amounts: dict[str, Amounts], say: report.Say) -> Bench:
    count = max(each.warm_up + each.measured for each in amounts.values()) + _SLACK
    say(f"writing {count:,} readings")
    create_topic(broker.bootstrap_servers, "readings")
    expected = fill(broker.bootstrap_servers, "readings", count)
    return Bench(bootstrap=broker.bootstrap_servers, folder=folder, input="readings", expected=expected)


def _alternate(
    bench: Bench, subjects: list[Subject], amounts: dict[str, Amounts], *, rounds: int, say: report.Say
) -> dict[str, list[Figures]]:
    results: dict[str, list[Figures]] = {subject.name: [] for subject in subjects}
    for number in range(1, rounds + 1):
        for subject in subjects:
            try:
                figures = subject.run(bench, number, amounts[subject.name])
            except (Failed, Wrong) as error:
                raise type(error)(f"{subject.title}: {error}") from error
            results[subject.name].append(figures)
            say(f"round {number} of {rounds}: {subject.title}: {report.line(figures)}")
    return results


if __name__ == "__main__":
    sys.exit(main())
