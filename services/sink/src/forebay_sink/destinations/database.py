"""What every database destination does alike: it connects when prepared, and starts over after any error of the database."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from forebay.errors import TryLater
from forebay.runtime.stage import DeadLetter
from forebay.runtime.storing import Move
from forebay_sink import tables
from forebay_sink.owner import Owner
from forebay_sink.rows import Fields, Row, RowDecoder
from forebay_sink.tables import Dialect


class Closable(Protocol):
    """A connection to a database."""

    def close(self) -> None:
        """Let go of it; what is open is rolled back."""


ConnectionT = TypeVar("ConnectionT", bound=Closable)
ResultT = TypeVar("ResultT")


class DatabaseTable(ABC, Generic[ConnectionT]):
    """A sink's table, and its positions beside it (see forebay.runtime.storing.Destination).

    `fields` None: the columns are key and value.
    """

    errors: ClassVar[type[Exception]]
    """What the database's client raises."""

    def __init__(self, *, fields: Fields | None, owner: Owner, dialect: Dialect, refuses_nul: bool = False) -> None:
        self._owner = owner
        self._decoder = RowDecoder(fields, refuses_nul=refuses_nul)
        self._connection: ConnectionT | None = None
        self._topic_id = ""
        tables.check_names(self._decoder.fields, dialect)

    def prepare(self, topic_id: str) -> None:
        """Connect, create or check the table."""
        self._topic_id = topic_id
        if self._connection is None:
            self._connection = self._connect()
            self._guarded(self._prepare_tables)

    def positions(self, partitions: Collection[int]) -> Mapping[int, int | None]:
        """What the database holds."""
        return self._guarded(lambda: self._read_positions(sorted(partitions)))

    def decode(self, messages: Sequence[Any]) -> tuple[list[Row], list[DeadLetter]]:
        """Rows of the table."""
        return self._decoder.decode(messages)

    def store(self, rows: Sequence[Row], moves: Sequence[Move], before_commit: Callable[[], None]) -> None:
        """Add the rows and move the positions in one transaction."""
        self._guarded(lambda: self._transact(rows, moves, before_commit))

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.close()

    @property
    def _sql(self) -> ConnectionT:
        if self._connection is None:
            raise TryLater(f"{self._name} is not open")
        return self._connection

    def _guarded(self, action: Callable[[], ResultT]) -> ResultT:
        """What happens to the database is waited out; nothing of an unfinished transaction stays."""
        try:
            return action()
        except self.errors as error:
            self.close()
            raise TryLater(f"{self._name} cannot be used: {self._words(error)}") from error

    @property
    @abstractmethod
    def _name(self) -> str:
        """What is written to, for people."""

    @staticmethod
    @abstractmethod
    def _words(error: Exception) -> str:
        """The client's complaint in one line."""

    @abstractmethod
    def _connect(self) -> ConnectionT:
        """Raises TryLater or Refused."""

    @abstractmethod
    def _prepare_tables(self) -> None:
        """Create or check both tables."""

    @abstractmethod
    def _read_positions(self, partitions: Sequence[int]) -> dict[int, int | None]:
        """The next offset of each partition; rows are made where there are none."""

    @abstractmethod
    def _transact(self, rows: Sequence[Row], moves: Sequence[Move], before_commit: Callable[[], None]) -> None:
        """Add the rows, call `before_commit`, move the positions, commit. Raises LostOwnership, Unstorable."""
