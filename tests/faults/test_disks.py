"""Disks that are full, read-only or lie: local state is a copy of the changelog and may be lost at any time. Cases 26, 27."""

import contextlib
import fcntl
import json
import shutil
import subprocess
from collections import Counter

import pytest
import topics
from services import until
from world import AVERAGE, World, assert_all_is_right, readings

from forebay.kafka.settings import MAX_MESSAGE_BYTES

PAGE = 4096
TRANSACTIONS = "__transaction_state"


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 24 MiB of its own, remounted by the tests."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", folder], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.fail(
            f"a full disk needs one of its own; run this as root, who may mount it: {mounted.stderr.decode().strip()}"
        )
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def remount(folder, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)


def fill(folder) -> None:
    """Leave no room at all."""
    with (folder / "ballast").open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
        while True:
            ballast.write(bytes(PAGE))


# -- 26 -----------------------------------------------------------------------------------------------------------------


def test_26_a_disk_that_fills_up_ends_the_process_and_loses_nothing(kafka, tmp_path, small_disk):
    world = World(kafka, tmp_path, AVERAGE)
    records = list(readings(60_000, devices=3_000))
    data = small_disk / "data"
    world.write(records[:10_000])
    with world.service(FOREBAY_DATA=str(data)) as service:
        until(world.drained, what="the first part processed")
        fill(small_disk)
        world.write(records[10_000:50_000])
        assert service.wait(60) == 1
        failures = [line for line in service.log().splitlines() if '"event": "failed"' in line]
        assert len(failures) == 1
        assert "No space left on device" in failures[0]
        assert "Traceback" not in service.log()

        service.start()
        assert service.wait(30) == 1, "still full"

        (small_disk / "ballast").unlink()
        service.start()
        # these wait for the state; the others may have been committed before it was to be stored
        world.write(records[50_000:])
        until(world.drained, what="everything processed")
        assert service.stop() == 0

    assert_all_is_right(world, records, data)


def test_26_a_disk_that_becomes_read_only_ends_the_process_and_loses_nothing(kafka, tmp_path, small_disk):
    world = World(kafka, tmp_path, AVERAGE)
    records = list(readings(20_000, devices=1_000))
    data = small_disk / "data"
    with world.service(FOREBAY_DATA=str(data)) as service:
        remount(small_disk, "ro")
        assert service.wait(60) == 1
        assert "Read-only file system" in service.log()
        assert "Traceback" not in service.log()

        remount(small_disk, "rw")
        service.start()
        world.write(records)
        until(world.drained, what="everything processed")
        assert service.stop() == 0
        remount(small_disk, "ro")
        service.start()
        assert service.wait(60) == 1, "read-only with a store on it"
        assert "Traceback" not in service.log()
        remount(small_disk, "rw")

    assert_all_is_right(world, records, data)


# -- 27 -----------------------------------------------------------------------------------------------------------------


def stores(data):
    return sorted(path for path in (data / "state" / "avg.v1").iterdir() if path.is_dir())


def damage_tables(data) -> int:
    return sum(damage_tables_of(store) for store in stores(data))


def damage_tables_of(store) -> int:
    """Flip a byte in every 64 of the data blocks; the file's end, which is read first, stays as it was."""
    tables = list(store.glob("*.sst"))
    for table in tables:
        content = bytearray(table.read_bytes())
        for place in range(0, max(1, len(content) - 2 * 1024), 64):
            content[place] ^= 0xFF
        table.write_bytes(content)
    return len(tables)


def damage_indexes_of_tables(data) -> int:
    """What is read first when a table is opened, but for its last bytes: they tell where that stands."""
    tables = [table for store in stores(data) for table in store.glob("*.sst")]
    for table in tables:
        content = bytearray(table.read_bytes())
        for place in range(max(0, len(content) - 2 * 1024), len(content) - 64, 16):
            content[place] ^= 0xFF
        table.write_bytes(content)
    return len(tables)


def damage_ends_of_tables(data) -> int:
    tables = [table for store in stores(data) for table in store.glob("*.sst")]
    for table in tables:
        content = bytearray(table.read_bytes())
        content[-48:] = bytes(48)
        table.write_bytes(content)
    return len(tables)


def truncate_manifests(data) -> int:
    manifests = [manifest for store in stores(data) for manifest in store.glob("MANIFEST-*")]
    for manifest in manifests:
        manifest.write_bytes(manifest.read_bytes()[: manifest.stat().st_size // 2])
    return len(manifests)


def empty_manifests(data) -> int:
    manifests = [manifest for store in stores(data) for manifest in store.glob("MANIFEST-*")]
    for manifest in manifests:
        manifest.write_bytes(b"")
    return len(manifests)


def remove_current(data) -> int:
    for store in stores(data):
        (store / "CURRENT").write_bytes(b"MANIFEST-999999\n")
    return len(stores(data))


@pytest.mark.parametrize(
    "damage",
    [
        damage_tables,
        damage_indexes_of_tables,
        damage_ends_of_tables,
        truncate_manifests,
        empty_manifests,
        remove_current,
    ],
)
def test_27_a_damaged_store_is_wiped_and_restored(kafka, tmp_path, damage):
    """Some damage shows when a store is opened, some only when a value is read."""
    world = World(kafka, tmp_path, AVERAGE)
    records = list(readings(20_000, devices=2_000))
    world.write(records[:12_000])
    with world.service() as service:
        until(world.drained, what="the first part processed")
        assert service.stop() == 0
        assert damage(tmp_path / "enrich-0") >= 3
        service.start()
        world.write(records[12_000:])
        until(lambda: service.metric("forebay_assigned_partitions") == 3, what="it is back")
        until(world.drained, what="everything processed")
        if damage is not truncate_manifests:  # that may look like an older store, which catches up
            assert "wiped" in service.log()
        assert "Traceback" not in service.log()
        assert service.stop() == 0

    assert_all_is_right(world, records, tmp_path / "enrich-0")


def test_27_a_damaged_store_is_no_fault_of_a_users_function(kafka, tmp_path):
    """The function is called record by record, and its failures are dead letters; the store's are not."""
    (tmp_path / "counting.py").write_text(
        """
def count(record):
    record.state.value = (record.state.value or 0) + 1
    return {"device_id": record.key, "seen": record.state.value}
"""
    )
    transforms = """
        - name: avg
          python: {entrypoint: "counting:count", stateful: true}
"""
    world = World(kafka, tmp_path, transforms)
    records = list(readings(20_000, devices=2_000))
    world.write(records[:12_000])
    with world.service(PYTHONPATH=str(tmp_path)) as service:
        until(world.drained, what="the first part processed")
        assert service.stop() == 0
        assert damage_tables(tmp_path / "enrich-0") >= 3
        service.start()
        world.write(records[12_000:])
        until(world.drained, what="everything processed")
        assert "wiped" in service.log()
        assert service.stop() == 0

    assert world.dead() == []
    seen = Counter(
        (value["device_id"], value["seen"]) for value in (json.loads(each.value()) for each in world.output())
    )
    last = Counter(key for key, _value in records)
    assert seen == Counter((key, number) for key, count in last.items() for number in range(1, count + 1))


@contextlib.contextmanager
def no_transaction_can_end(kafka):
    """The broker finds each line too large that it would write in its log of transactions: it answers UNKNOWN."""
    limit = "max.message.bytes"
    topics.configure(kafka.bootstrap_servers, TRANSACTIONS, limit, "1")
    try:
        yield
    finally:
        topics.configure(kafka.bootstrap_servers, TRANSACTIONS, limit, str(MAX_MESSAGE_BYTES))


def test_27_a_damaged_store_is_restored_even_if_its_transaction_cannot_be_aborted(kafka, tmp_path):
    """The answer to the first fault meets a second one, which asks only for an abort: the wiped store would stay empty."""
    world = World(kafka, tmp_path, AVERAGE, extra="      batch: {maxWaitMs: 5000}")
    records = list(readings(16_000, devices=2_000))
    first, rest = records[:12_000], records[12_000:]
    world.write(first)
    damaged = 2
    keys = {each.key().decode() for each in topics.read(world.bootstrap, world.raw) if each.partition() == damaged}
    with world.service() as service:
        until(world.drained, what="the first part processed")
        assert service.stop() == 0
        (store,) = (each for each in stores(tmp_path / "enrich-0") if each.name == str(damaged))
        assert damage_tables_of(store) >= 1
        service.start()
        sound = [record for record in rest if record[0] not in keys]
        world.write(sound[:1_000])
        until(world.drained, what="a commit, so that the next one is far away")
        before = topics.ends(world.bootstrap, world.enriched, "read_uncommitted")
        world.write(sound[1_000:])
        until(
            lambda: topics.ends(world.bootstrap, world.enriched, "read_uncommitted") != before,
            what="records in a transaction that the broker knows",
        )
        with no_transaction_can_end(kafka):
            world.write(record for record in rest if record[0] in keys)
            until(lambda: "EndTxn abort failed" in service.log(), what="the store was read, and the abort refused")
        assert "EndTxn commit failed" not in service.log()
        until(world.drained, what="everything processed")
        assert service.stop() == 0

    assert_all_is_right(world, records, tmp_path / "enrich-0")


def test_27_a_lock_file_left_behind_is_no_obstacle_and_a_held_lock_is(kafka, tmp_path):
    world = World(kafka, tmp_path, AVERAGE)
    records = list(readings(4_000))
    world.write(records[:2_000])
    data = tmp_path / "enrich-0"
    with world.service() as service:
        until(world.drained, what="the first part processed")
        service.kill()
        held = stores(data)[0] / "LOCK"
        assert held.exists(), "left behind"
        with held.open("r+b") as lock:
            fcntl.lockf(lock, fcntl.LOCK_EX)
            service.start()
            assert service.wait(60) == 1
            assert "LOCK: Resource temporarily unavailable" in service.log()
            assert "wiped" not in service.log(), "a store in use is not thrown away"
        service.start()
        world.write(records[2_000:])
        until(lambda: service.metric("forebay_assigned_partitions") == 3, what="it is back")
        until(world.drained, what="everything processed")
        assert service.stop() == 0
    assert_all_is_right(world, records, data)


def test_27_a_folder_of_an_older_day_is_not_believed(kafka, tmp_path):
    """A volume restored from a snapshot: the store catches up from where it stood."""
    world = World(kafka, tmp_path, AVERAGE)
    records = list(readings(6_000))
    world.write(records[:2_000])
    data = tmp_path / "enrich-0"
    with world.service() as service:
        until(world.drained, what="the first part processed")
        assert service.stop() == 0
        shutil.copytree(data, tmp_path / "snapshot")
        service.start()
        world.write(records[2_000:4_000])
        until(world.drained, what="the second part processed")
        assert service.stop() == 0
        shutil.rmtree(data)
        shutil.copytree(tmp_path / "snapshot", data)
        service.start()
        world.write(records[4_000:])
        until(world.drained, what="everything processed")
        assert service.stop() == 0
    assert_all_is_right(world, records, data)
