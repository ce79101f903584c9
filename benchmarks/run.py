"""`python benchmarks/run.py [--quick]`: this processor and its peers on one broker, in one run, alternating.

Prints a table, then latency, restore and scaling; writes results/latest.json. See README.md beside it.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import report
from forebay_cli.embedded_kafka import BrokerOptions, EmbeddedKafka, EmbeddedKafkaError
from observing import Failed, Figures
from subjects import Amounts, Bench, Floor, Forebay, KafkaStreams, Naive, QuixStreams, Subject, Unavailable, create_topic
from workload import Wrong, fill

RESULTS = Path(__file__).parent / "results" / "latest.json"
_SLACK = 300_000
"""Records behind the measured ones, so that nobody runs dry while being measured."""

FULL = {
    "forebay": Amounts(warm_up=1_000_000, measured=3_000_000),
    "floor": Amounts(warm_up=1_000_000, measured=3_000_000),
    "naive": Amounts(warm_up=250_000, measured=1_000_000),
    "quix_streams": Amounts(warm_up=100_000, measured=400_000),
    "kafka_streams": Amounts(warm_up=1_000_000, measured=3_000_000),
}
QUICK = {
    "forebay": Amounts(warm_up=500_000, measured=1_500_000),
    "floor": Amounts(warm_up=500_000, measured=1_500_000),
    "naive": Amounts(warm_up=100_000, measured=300_000),
    "quix_streams": Amounts(warm_up=50_000, measured=100_000),
    "kafka_streams": Amounts(warm_up=1_000_000, measured=1_000_000),
}


def main() -> int:
    """Run it; the exit status is 1 when something failed."""
    options = _options()
    forebay = Forebay()
    subjects: list[Subject] = [forebay, Floor(forebay), Naive(), QuixStreams(), KafkaStreams()]
    subjects = [each for each in subjects if not options.only or each.name in options.only]
    amounts = QUICK if options.quick else FULL
    begun = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - begun:6.0f} s  {text}", flush=True)

    try:
        subjects, absent = _prepared(subjects, say)
        with tempfile.TemporaryDirectory(prefix="forebay-bench-") as folder, _broker(Path(folder), say) as broker:
            bench = _filled(broker, Path(folder), amounts, say)
            results = _alternate(bench, subjects, amounts, rounds=options.rounds or (2 if options.quick else 5), say=say)
    except (EmbeddedKafkaError, Failed, Wrong) as error:
        print(f"the benchmark failed: {error}", file=sys.stderr)
        return 1
    print()
    report.table(results, {each.name: each.title for each in subjects})
    for line in absent:
        print(line)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(report.as_json(results))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the first table alone, with fewer records and rounds")
    parser.add_argument("--rounds", type=int, help="how often each subject runs")
    parser.add_argument("--only", nargs="*", help="these subjects alone")
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
