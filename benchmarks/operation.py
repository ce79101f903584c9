"""Beside throughput: latency under an even load, the time to restore state, and a second process.

The processor is the same in all of them: `subjects.Stage`, all defaults.
"""

import json
import shutil
import sys
import time
import urllib.request
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

from observing import Child, Failed, measure
from prometheus_client.parser import text_string_to_metric_families
from report import Say
from subjects import HERE, Amounts, Bench, Stage
from workload import DEVICES, EPOCH_MS, PARTITIONS, BatchWriter, check, key_of, readings, text_of

from forebay.kafka import settings
from forebay.kafka.admin import Admin

KEYS = 1_000_000
_EXTRA = 10_000
"""Readings that come after the restore: their averages show whether the state is back."""
_SETTLE_S = 4.0
_DEADLINE_S = 180.0


def latency(bench: Bench, capacity: float, share: float, *, seconds: float) -> dict[str, float]:
    """Ages of output records, read committed, while that share of the measured capacity comes in evenly."""
    name = f"latency-{round(share * 100)}"
    stage = Stage(bench.bootstrap, bench.folder / name, name, f"live-{name}", f"averages-{name}")
    stage.create_topics()
    reading = {
        "consumer": {
            **settings.assigned_consumer({"bootstrap.servers": bench.bootstrap}),
            "fetch.wait.max.ms": 10,
            "check.crcs": False,
        },
        "topic": stage.output,
        "partitions": PARTITIONS,
        "ignore_s": _SETTLE_S,
    }
    pacing = {
        "bootstrap": bench.bootstrap,
        "topic": stage.input,
        "per_second": capacity * share,
        "seconds": _SETTLE_S + seconds,
        "devices": DEVICES,
    }
    with stage.start() as processor, _peer("reader", reading, stage.folder) as reader:
        _until(lambda: _metric(stage, "forebay_assigned_partitions") == PARTITIONS, processor)
        _until(lambda: "reading" in reader.last_words(), reader)
        cpu_s = processor.cpu_s()
        with _peer("pacer", pacing, stage.folder) as pacer:
            pacer.process.wait()
        time.sleep(1.0)
        cpu_s = processor.cpu_s() - cpu_s
        reader.stop()
        processor.stop()
        written, read = (json.loads(child.last_words().splitlines()[-1]) for child in (pacer, reader))
    Admin({"bootstrap.servers": bench.bootstrap}).delete_topics([stage.input])
    stage.delete_topics()
    shutil.rmtree(stage.folder)
    return {
        "records_per_second": round(written["per_second"]),
        "p50_ms": read["p50_ms"],
        "p99_ms": read["p99_ms"],
        "max_ms": read["max_ms"],
        "samples": read["samples"],
        "cpu_us_per_record": round(cpu_s / written["records"] * 1e6, 3),
    }


def restore(bench: Bench, keys: int = KEYS) -> dict[str, float]:
    """One reading of each key, then the local state is deleted and comes back from the changelog.

    Readings written afterwards prove that it did.
    """
    stage = Stage(bench.bootstrap, bench.folder / "restore", "restore", "many-keys", "averages-restore")
    stage.create_topics()
    writer = BatchWriter(bench.bootstrap, stage.input)
    expected = array("d")
    rows = [(temperature, humidity) for _, temperature, humidity in readings(keys + _EXTRA)]
    temperatures = [temperature for temperature, _ in rows]
    _write(writer, rows[:keys], first=0)
    expected.extend(temperatures[:keys])
    expected.extend((temperatures[place] + temperatures[keys + place]) / 2 for place in range(_EXTRA))
    with stage.start() as processor:
        memory = [processor.memory_mb()]
        _until(lambda: stage.commits.now() >= keys, processor, each=lambda: memory.append(processor.memory_mb()))
        processor.stop()
    shutil.rmtree(stage.data())
    log_size = (stage.folder / "enrich-0.log").stat().st_size
    begun = time.monotonic()
    with stage.start() as processor:
        again = [processor.memory_mb()]
        _until(
            lambda: (
                _metric(stage, "forebay_assigned_partitions") == PARTITIONS
                and _metric(stage, "forebay_restoring_partitions") == 0
            ),
            processor,
            each=lambda: again.append(processor.memory_mb()),
        )
        seconds = time.monotonic() - begun
        _write(writer, rows[keys:], first=keys)
        _until(lambda: stage.commits.now() >= keys + _EXTRA, processor)
        processor.stop()
    changes = _restored(stage.folder / "enrich-0.log", log_size)
    if changes < keys:
        raise Failed(f"restored {changes} changes of {keys} keys")
    check(bench.bootstrap, stage.output, expected, keys + _EXTRA)
    Admin({"bootstrap.servers": bench.bootstrap}).delete_topics([stage.input])
    stage.delete_topics()
    return {
        "keys": keys,
        "seconds": round(seconds, 2),
        "changes_per_second": round(changes / seconds),
        "peak_memory_mb": round(max(memory)),
        "peak_memory_while_restoring_mb": round(max(again)),
        "state_cache_mb": stage.processor.state_cache_mebibytes,
    }


def scaling(bench: Bench, amounts: Amounts, processes: int) -> dict[str, float]:
    """That many processes in one group; processor time and memory of all of them."""
    name = f"scaling-{processes}"
    stage = Stage(bench.bootstrap, bench.folder / name, name, bench.input, f"averages-{name}")
    stage.create_topics()
    children: list[Child] = []
    try:
        children += [stage.start(ordinal) for ordinal in range(processes)]
        figures = measure(children, stage.commits, warm_up=amounts.warm_up, measured=amounts.measured)
        for child in children:
            child.stop()
    finally:
        for child in children:
            child.__exit__()  # kills what still runs
    check(bench.bootstrap, stage.output, bench.expected, stage.commits.final())
    stage.delete_topics()
    shutil.rmtree(stage.folder)
    return {
        "cpu_us_per_record": round(figures.cpu_us_per_record, 3),
        "records_per_second": round(figures.records_per_second),
        "peak_memory_mb": round(figures.peak_memory_mb),
    }


def _write(writer: BatchWriter, rows: list[tuple[float, float]], *, first: int) -> None:
    """One reading per key; the keys begin anew with each call."""
    for start in range(0, len(rows), 10_000):
        batch: list[dict[str, Any]] = []
        for place, (temperature, humidity) in enumerate(rows[start : start + 10_000], start):
            key = key_of(place)
            batch.append({"key": key, "value": text_of(key, EPOCH_MS + first + place, temperature, humidity)})
        writer.write(batch)
    writer.finish()


def _restored(log_file: Path, skip: int) -> int:
    """How many changes the log says were restored, behind its first bytes."""
    lines = log_file.read_bytes()[skip:].splitlines()
    events = [json.loads(line) for line in lines if line.startswith(b"{")]
    return sum(event["changes"] for event in events if event.get("event") == "state restored")


def _peer(name: str, task: dict[str, Any], folder: Path) -> Child:
    return Child([sys.executable, str(HERE / "peers" / f"{name}.py"), json.dumps(task)], folder / f"{name}.log")


def _metric(stage: Stage, name: str) -> float | None:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{stage.port}/metrics", timeout=2) as answer:
            text = answer.read().decode()
    except OSError:
        return None
    values = [
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    ]
    return sum(values) if values else None


def _until(condition: Callable[[], bool], child: Child, each: Callable[[], None] = lambda: None) -> None:
    deadline = time.monotonic() + _DEADLINE_S
    while not condition():
        child.require_running()
        each()
        if time.monotonic() > deadline:
            raise Failed(f"not within {_DEADLINE_S:.0f} s: {child.last_words()}")
        time.sleep(0.1)


def run(bench: Bench, capacity: float, amounts: Amounts, say: Say) -> dict[str, Any]:
    """All of it, in words on the way."""
    found: dict[str, Any] = {"latency": {}, "scaling": {}}
    for share in (0.2, 0.5, 0.8):
        figures = latency(bench, capacity, share, seconds=20)
        found["latency"][f"{share:.0%}"] = figures
        say(
            f"latency at {share:.0%} of capacity ({figures['records_per_second']:,.0f} records/s): "
            f"p50 {figures['p50_ms']:.0f} ms, p99 {figures['p99_ms']:.0f} ms, "
            f"{figures['cpu_us_per_record']:.2f} us CPU/record"
        )
    found["restore"] = restore(bench)
    say(
        f"restore of {found['restore']['keys']:,} keys: {found['restore']['seconds']:.1f} s; peak memory with that state "
        f"{found['restore']['peak_memory_mb']} MB (cache of {found['restore']['state_cache_mb']} MB)"
    )
    for processes in (1, 2):
        figures = scaling(bench, amounts, processes)
        found["scaling"][str(processes)] = figures
        say(
            f"processes: {processes}: {figures['records_per_second']:,.0f} records/s, {figures['cpu_us_per_record']} us"
        )
    return found
