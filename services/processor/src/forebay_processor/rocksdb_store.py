"""A store on disk: one RocksDB per transform and partition, raw bytes, with the mark in a column family of its own.

Changes and mark go in with one WriteBatch. Its write-ahead log is not synced: a machine that loses power loses the last
writes as a whole, and the changelog brings them back. A damaged table opens without complaint and fails when it is read, so
errors while reading count as damage too.
"""

import json
import shutil
from pathlib import Path
from typing import Any, NoReturn

import structlog
from rocksdict import (
    BlockBasedOptions,
    Cache,
    DBCompressionType,
    Options,
    Rdict,
    WriteBatch,
    WriteBufferManager,
)

from forebay.errors import Fatal, Refused
from forebay.runtime.state import Changes, Mark, Origin, Position, StoreDamaged

log = structlog.get_logger()

FORMAT = 1
_MARK = b"mark"
_MARKS = "marks"
_MEBIBYTE = 1 << 20


class Memory:
    """What all stores of a process share: block cache and write buffers, both bounded."""

    def __init__(self, *, block_cache_bytes: int = 32 * _MEBIBYTE, write_buffer_bytes: int = 48 * _MEBIBYTE) -> None:
        self._cache = Cache(block_cache_bytes)
        self._buffers = WriteBufferManager(write_buffer_bytes, allow_stall=False)

    def options(self) -> Options:
        """RocksDB options for many small databases in one process."""
        blocks = BlockBasedOptions()
        blocks.set_block_cache(self._cache)
        blocks.set_bloom_filter(10, block_based=False)
        blocks.set_cache_index_and_filter_blocks(True)
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        options.create_missing_column_families(True)
        options.set_block_based_table_factory(blocks)
        options.set_write_buffer_manager(self._buffers)
        options.set_write_buffer_size(8 * _MEBIBYTE)
        options.set_max_total_wal_size(16 * _MEBIBYTE)
        options.set_compression_type(DBCompressionType.lz4())
        options.set_max_open_files(64)
        options.set_keep_log_file_num(2)
        options.set_max_log_file_size(_MEBIBYTE)
        return options


class RocksStore:
    """See forebay.runtime.state.Store."""

    def __init__(self, folder: Path, memory: Memory) -> None:
        self._folder = folder
        self._memory = memory
        self._database: Rdict
        self._marks: Any = None
        self._mark: Mark | None = None
        self._open()

    @property
    def mark(self) -> Mark | None:
        """See Store."""
        return self._mark

    def get(self, key: bytes) -> bytes | None:
        """See Store."""
        try:
            value: bytes | None = self._database.get(key)
        except Exception as error:
            raise StoreDamaged(self, f"{self._folder}: {error}") from error
        return value

    def write(self, changes: Changes, mark: Mark) -> None:
        """See Store."""
        batch = WriteBatch(raw_mode=True)
        for key, value in changes.items():
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        batch.put(_MARK, _encode(mark), self._marks)
        try:
            self._database.write(batch)
        except Exception as error:  # rocksdict raises nothing more precise
            if "Corruption" in str(error):
                raise StoreDamaged(self, f"{self._folder}: {error}") from error
            self._fail("written", error)
        self._mark = mark

    def wipe(self) -> None:
        """See Store."""
        self.close()
        self._remove()
        self._open()

    def close(self) -> None:
        """See Store."""
        self._marks = None  # a handle of a column family keeps the database, and with it the folder's lock
        try:
            self._database.close()
        except Exception as error:  # noqa: BLE001
            log.warning("store not closed in order", folder=str(self._folder), error=str(error))

    def _open(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self._fail("made", error)
        try:
            self._connect()
        except (Fatal, Refused):
            raise
        except Exception as error:  # noqa: BLE001
            if _is_locked(error) or _is_about_the_disk(error):
                self._fail("opened", error)
            log.warning("local state cannot be opened; it is wiped", folder=str(self._folder), reason=str(error))
            self._remove()
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._connect()
            except Exception as again:  # noqa: BLE001
                self._fail("made", again)

    def _remove(self) -> None:
        self._mark = None
        try:
            shutil.rmtree(self._folder)
        except OSError as error:
            self._fail("wiped", error)

    def _connect(self) -> None:
        options = self._memory.options()
        self._database = Rdict(str(self._folder), options=options, column_families={_MARKS: self._memory.options()})
        self._marks = self._database.get_column_family_handle(_MARKS)
        try:
            found = self._database.get_column_family(_MARKS).get(_MARK)
            self._mark = None if found is None else _decode(found, self._folder)
        except BaseException:
            self._marks = None
            self._database.close()
            raise

    def _fail(self, what: str, error: Exception) -> NoReturn:
        raise Fatal(
            f"local state in {self._folder} cannot be {what}: {error}; "
            "is the disk full or read-only, or does another process use the folder? "
            "Nothing is lost: the changelog restores it"
        ) from error


def _is_locked(error: Exception) -> bool:
    return any(words in str(error) for words in ("lock hold by", "lock file", "/LOCK"))


def _is_about_the_disk(error: Exception) -> bool:
    return any(words in str(error) for words in ("No space left", "Read-only file system", "Permission denied"))


def _encode(mark: Mark) -> bytes:
    return json.dumps(
        {
            "format": FORMAT,
            "topic_id": mark.origin.topic_id,
            "partitions": mark.origin.partitions,
            "changelog_offset": mark.changelog_offset,
            "written_ms": mark.written_ms,
            "position": mark.position,
        }
    ).encode()


def _decode(data: bytes, folder: Path) -> Mark:
    found = json.loads(data)
    if found["format"] != FORMAT:
        raise Refused(
            f"local state in {folder} has format {found['format']}, this version reads {FORMAT}: "
            "run the version that wrote it, or delete the folder to restore from the changelog"
        )
    origin = Origin(found["topic_id"], found["partitions"])
    position = Position(*found["position"]) if found["position"] else None
    return Mark(origin, found["changelog_offset"], found["written_ms"], position)
