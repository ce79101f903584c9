"""Kafka's administration: what topics and groups there are, and the steps of a plan. The only IO of planning.

Every call is bounded in time. An error says what was being done, at which address, and what to check; it is TryLater
where waiting may help, and Refused where a person must act.
"""

import contextlib
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar
from weakref import WeakMethod

from confluent_kafka import (
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
    ResourceType,
    TopicDescription,
)

from forebay.errors import Forbidden, ForebayError, LoginRefused, Refused, TryLater, Untrusted
from forebay.kafka import clients
from forebay.kafka.errors import ADD_THE_ACL
from forebay.planning.topics import Action, AddPartitions, AlterConfig, CreateTopic, TopicState

REQUEST_TIMEOUT_S = 10.0
_REFRESH_S = 1.0
"""To look for another broker after one did not answer; what was asked has failed already, and its caller waits."""
LEADERS_TIMEOUT_S = 30.0
"""A new topic answers in milliseconds; a cluster that elects leaders after a failure may take this long."""

LOGIN_TIMEOUT_S = 15.0
"""A new user reaches every broker within a second; a controller that is elected anew may take this long."""

_POLL_S = 0.1
_T = TypeVar("_T")


def log_in(connection: Mapping[str, Any], timeout_s: float = LOGIN_TIMEOUT_S) -> None:
    """Wait until Kafka accepts the login of these properties; Forbidden when it still does not at the end."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            Admin(connection).cluster_id()
        except Forbidden:
            if time.monotonic() > deadline:
                raise
            time.sleep(_POLL_S)
        else:
            return


class Admin:
    """A connection for administration, made from librdkafka properties (`settings.admin_connection`, say).

    Each request is given `timeout_s`, or REQUEST_TIMEOUT_S.
    """

    def __init__(self, connection: Mapping[str, Any], *, timeout_s: float | None = None) -> None:
        self._timeout_s = REQUEST_TIMEOUT_S if timeout_s is None else timeout_s
        self._servers = str(connection["bootstrap.servers"])
        self._complaint: KafkaError | None = None
        # What librdkafka would log about connections comes back as an error here. The client must not keep this object alive:
        # loops that collect no garbage would keep the threads and connections of every login that was tried.
        remember = WeakMethod(self._remember)

        def complain(error: KafkaError) -> None:
            if (call := remember()) is not None:
                call(error)

        self._properties: dict[str, Any] = {**connection, "log_level": 0, "error_cb": complain}
        self._observers: dict[str, Consumer] = {}
        try:
            self.client = clients.admin(self._properties)
        except KafkaException as exception:
            raise Refused(
                f"the settings for Kafka at {self._servers} are wrong: {exception.args[0].str()}: "
                "check tls, sasl and the keys of their Secrets"
            ) from exception

    def brokers(self) -> int:
        """How many brokers the cluster has."""
        cluster = self.client.describe_cluster(request_timeout=self._timeout_s)
        return len(self.answer(cluster, "describe the cluster").nodes)

    def cluster_id(self) -> str:
        """Kafka's own name for the cluster: the same whatever address it was reached at."""
        cluster = self.client.describe_cluster(request_timeout=self._timeout_s)
        return str(self.answer(cluster, "describe the cluster").cluster_id)

    def describe(self, names: Iterable[str]) -> dict[str, TopicState | None]:
        """Like `observe` without configuration, which the user of a stage may not read."""
        return self.describing(names)()

    def describing(self, names: Iterable[str]) -> Callable[[], dict[str, TopicState | None]]:
        """Ask for what `describe` returns. What is returned here waits for the answer, so that work can be done meanwhile."""
        described = self._describing(names)
        return lambda: {name: None if found is None else _state(found, {}) for name, found in described().items()}

    def observe(self, names: Iterable[str]) -> dict[str, TopicState | None]:
        """The topics by name, with every configuration value in force; None where there is no such topic."""
        described = self._describing(names)()
        found = [name for name, description in described.items() if description is not None]
        resources = [ConfigResource(ResourceType.TOPIC, name) for name in found]
        configs = self.client.describe_configs(resources, request_timeout=self._timeout_s) if found else {}
        in_force = {
            resource.name: self.answer(future, f"read the configuration of topic {resource.name}")
            for resource, future in configs.items()
        }
        return {
            name: None if description is None else _state(description, in_force[name])
            for name, description in described.items()
        }

    def check(self, action: Action) -> str | None:
        """What Kafka would refuse about the action, as a sentence; None when it would take it. Changes nothing."""
        try:
            self._request(action, validate_only=True)
        except Refused as refusal:
            return str(refusal)
        return None

    def apply(self, action: Action) -> None:
        """Takes one step of a plan and waits until it is done. A step that somebody else took is done."""
        self._request(action, validate_only=False)
        match action:
            case CreateTopic(name, partitions):
                self._wait_for_leaders(name, partitions)
            case AddPartitions(name, _, partitions):
                self._wait_for_leaders(name, partitions)

    def begin_offsets(self, topic: str, partitions: Iterable[int]) -> dict[int, int]:
        """The offset of the oldest record, by partition."""
        return self._offsets(topic, partitions, OffsetSpec.earliest())  # type: ignore[no-untyped-call]  # so in the client

    def end_offsets(self, topic: str, partitions: Iterable[int]) -> dict[int, int]:
        """The offset after the last committed record (the last stable offset), by partition.

        It follows a commit with a short delay, for Kafka answers a commit before its markers are written.
        """
        return self._offsets(topic, partitions, OffsetSpec.latest())  # type: ignore[no-untyped-call]  # so in the client

    def log_end(self, topic: str, partition: int) -> int:
        """The offset after the last record of a partition, whether its transaction has ended or not."""
        spec = OffsetSpec.latest()  # type: ignore[no-untyped-call]  # so in the client
        return self._offsets(topic, [partition], spec, IsolationLevel.READ_UNCOMMITTED)[partition]

    def committed(self, group: str, topic: str, partitions: Iterable[int]) -> dict[int, int | None]:
        """The group's committed offsets by partition, None where it never committed.

        Offsets of open transactions are waited for, so TryLater may mean that one hangs.
        """
        # Neither of the others who ask could do it: `GroupObserver` needs a child process, which a run of pinned stages has not,
        # and does not wait for stable offsets; `GroupReader` waits for a minute, with a new client for each question, because
        # a rebalance hangs on the answer, where this one keeps its client and names the error soon.
        doing = f"read the offsets of group {group}"
        asked = [TopicPartition(topic, number) for number in partitions]
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                answer = self._observer(group).committed(asked, timeout=max(_POLL_S, deadline - time.monotonic()))
                break
            except KafkaException as exception:
                del self._observers[group]  # one that lost its coordinator may wait for it for ever
                if _code(exception) not in _COORDINATOR_MOVES or time.monotonic() > deadline:
                    raise self._error(exception.args[0], doing) from exception
                time.sleep(_POLL_S)
        for partition in answer:
            if partition.error is not None:
                raise self._error(partition.error, doing)
        return {each.partition: each.offset if each.offset >= 0 else None for each in answer}

    def _observer(self, group: str) -> Consumer:
        """A client of the group that never joins it.

        An administrator's request would do, but librdkafka 2.16 dereferences a null pointer in its answer to
        NOT_COORDINATOR for one (its issue 5040); a consumer's does not.
        """
        if group not in self._observers:
            properties = {
                **self._properties,
                "group.id": group,
                "enable.auto.commit": False,
                "isolation.level": "read_committed",  # waits for offsets that an open transaction would change
            }
            self._observers[group] = clients.consumer(properties)
        return self._observers[group]

    def ends(self, partitions: Iterable[tuple[str, int]]) -> dict[tuple[str, int], int | None]:
        """The last stable offsets of many topics' partitions at once; None where Kafka did not answer for one."""
        return self._many_offsets(partitions, OffsetSpec.latest())  # type: ignore[no-untyped-call]  # so in the client

    def begins(self, partitions: Iterable[tuple[str, int]]) -> dict[tuple[str, int], int | None]:
        """The offsets of the oldest records of many topics' partitions at once; None as above."""
        return self._many_offsets(partitions, OffsetSpec.earliest())  # type: ignore[no-untyped-call]  # so in the client

    def _many_offsets(
        self, partitions: Iterable[tuple[str, int]], spec: OffsetSpec
    ) -> dict[tuple[str, int], int | None]:
        asked = {TopicPartition(topic, number): spec for topic, number in partitions}
        if not asked:
            return {}
        futures = self.client.list_offsets(
            asked, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=self._timeout_s
        )
        return {(p.topic, p.partition): _offset_of(future) for p, future in futures.items()}

    def delete_topics(self, names: Sequence[str]) -> None:
        """Deletes topics with all of their records; those that do not exist are skipped."""
        for name, future in self.client.delete_topics(list(names), request_timeout=self._timeout_s).items():
            self.answer(future, f"delete topic {name}", done=KafkaError.UNKNOWN_TOPIC_OR_PART)

    def _describing(self, names: Iterable[str]) -> Callable[[], dict[str, TopicDescription | None]]:
        futures = self.client.describe_topics(TopicCollection(list(names)), request_timeout=self._timeout_s)
        missing = KafkaError.UNKNOWN_TOPIC_OR_PART

        def answered() -> dict[str, TopicDescription | None]:
            try:
                return {n: self.answer(each, f"describe topic {n}", done=missing) for n, each in futures.items()}
            except TryLater:
                self._look_around(next(iter(futures)), _REFRESH_S)  # the client goes on asking a broker that is gone
                raise

        return answered

    def _request(self, action: Action, *, validate_only: bool) -> None:
        bounds = {"request_timeout": self._timeout_s, "validate_only": validate_only}
        match action:
            case CreateTopic():
                topic = NewTopic(action.name, action.partitions, action.replication_factor, config=dict(action.config))
                futures = self.client.create_topics([topic], **bounds)
                self.answer(futures[action.name], f"create topic {action.name}", done=KafkaError.TOPIC_ALREADY_EXISTS)
            case AddPartitions():
                futures = self.client.create_partitions([NewPartitions(action.name, action.wanted)], **bounds)
                # also the answer when the topic has grown already; waiting for its leaders tells the difference
                self.answer(futures[action.name], f"grow topic {action.name}", done=KafkaError.INVALID_PARTITIONS)
            case AlterConfig():
                changed = self.client.incremental_alter_configs([_settings(action)], **bounds)
                for future in changed.values():
                    self.answer(future, f"change the configuration of topic {action.name}")

    def _wait_for_leaders(self, name: str, partitions: int) -> None:
        """Creation is asynchronous: until every partition has a leader, clients see errors."""
        deadline = time.monotonic() + LEADERS_TIMEOUT_S
        while time.monotonic() < deadline:
            description = self._describing([name])()[name]
            if description is not None and all(partition.leader for partition in description.partitions):
                if (found := len(description.partitions)) == partitions:
                    return
                if found > partitions:
                    raise TryLater(f"somebody else gave topic {name} {found} partitions, not {partitions}: plan again")
            time.sleep(_POLL_S)
        raise TryLater(
            f"topic {name} does not have {partitions} partitions with leaders after {LEADERS_TIMEOUT_S:g} s: "
            "check the brokers, then plan again"
        )

    def _offsets(
        self,
        topic: str,
        partitions: Iterable[int],
        spec: OffsetSpec,
        isolation: IsolationLevel = IsolationLevel.READ_COMMITTED,
    ) -> dict[int, int]:
        asked = {TopicPartition(topic, number): spec for number in partitions}
        try:
            return self._ask_for_offsets(topic, asked, isolation)
        except TryLater:
            # after a broker was restarted the client goes on asking with the leaders and epochs that it knew
            self._look_around(topic, self._timeout_s)
            return self._ask_for_offsets(topic, asked, isolation)

    def _look_around(self, topic: str, timeout_s: float) -> None:
        """Have the client learn anew which brokers there are and which lead the topic, if one answers."""
        with contextlib.suppress(KafkaException):
            self.client.list_topics(topic, timeout=timeout_s)

    def _ask_for_offsets(
        self, topic: str, asked: dict[TopicPartition, OffsetSpec], isolation: IsolationLevel
    ) -> dict[int, int]:
        futures = self.client.list_offsets(asked, isolation_level=isolation, request_timeout=self._timeout_s)
        return {p.partition: self.answer(future, f"read offsets of {topic}").offset for p, future in futures.items()}

    def answer(self, future: "Future[_T]", doing: str, *, done: int | None = None) -> Any:
        """What comes of a request of `client`, or an error that says what was being done.

        None when Kafka answers with the error code `done`, which means that nothing is left to do.
        """
        before = self._complaint  # still the cause when the client does not try again within this time
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                result = future.result(timeout=_POLL_S)
                self._complaint = None
                return result
            except TimeoutError:
                self.client.poll(0)  # serves `_remember`
                complaint = self._complaint  # once: other threads ask, too
                if complaint is not None and complaint is not before and _is_login(complaint):
                    raise self._error(complaint, doing) from None  # it would be repeated until the time is up
                if time.monotonic() > deadline:
                    raise self._unreachable() from None
            except KafkaException as exception:
                if _code(exception) == done:
                    return None
                self.client.poll(0)
                raise self._error(exception.args[0], doing) from exception

    def _remember(self, error: KafkaError) -> None:
        """librdkafka's reports about its connections; the sum of them says less than each."""
        if error.code() != KafkaError._ALL_BROKERS_DOWN:  # noqa: SLF001 - the public name of the code
            self._complaint = error

    def _error(self, error: KafkaError, doing: str) -> ForebayError:
        reason = _cause(error).rstrip(".")
        if error.code() in _UNREACHABLE:
            return self._unreachable()
        if _is_login(error):
            return LoginRefused(
                f"Kafka at {self._servers} refuses the login: {reason}: check mechanism, user and password"
            )
        if error.code() in _FORBIDDEN:
            return Forbidden(f"the user may not {doing}: {reason}: {ADD_THE_ACL}")
        if error.retriable() or error.code() in _COORDINATOR_MOVES | _LEADER_MOVED or error.code() == KafkaError._NOENT:  # noqa: SLF001 - no leader, or no such partition
            return TryLater(f"cannot {doing}: {reason}: check that it exists, and try again")
        return Refused(f"cannot {doing}: {reason}")

    def _unreachable(self) -> TryLater:
        complaint = self._complaint
        reason = f"{_cause(complaint)}: " if complaint is not None else ""
        tls = complaint is not None and complaint.code() == KafkaError._SSL  # noqa: SLF001 - the public name of the code
        cure = (
            "check tls and its Secrets"
            if tls
            else "check the address, that a broker listens there, and whether it wants TLS"
        )
        kind = Untrusted if tls else TryLater
        return kind(f"cannot reach Kafka at {self._servers} within {self._timeout_s:g} s: {reason}{cure}")


_COORDINATOR_MOVES = frozenset(
    {KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.COORDINATOR_LOAD_IN_PROGRESS}
)

_LEADER_MOVED = frozenset(
    {KafkaError.FENCED_LEADER_EPOCH, KafkaError.UNKNOWN_LEADER_EPOCH, KafkaError.NOT_LEADER_FOR_PARTITION}
)

_UNREACHABLE = frozenset(
    {
        KafkaError._TIMED_OUT,  # noqa: SLF001 - the public name of the code
        KafkaError._TRANSPORT,  # noqa: SLF001
        KafkaError._ALL_BROKERS_DOWN,  # noqa: SLF001
        KafkaError._RESOLVE,  # noqa: SLF001
        KafkaError._SSL,  # noqa: SLF001
    }
)
_FORBIDDEN = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    }
)


def _cause(complaint: KafkaError) -> str:
    """What librdkafka reports about a connection; without its measurements the same cause has the same words."""
    return re.sub(r" \(after \d+ms in state \w+(, \d+ identical error\(s\) suppressed)?\)", "", complaint.str())


def _is_login(error: KafkaError) -> bool:
    if (
        "change principals" in error.str()
    ):  # Kafka's word when a connection is to go on as another user: a new one is made
        return False
    return error.code() in {KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED}  # noqa: SLF001


def _offset_of(future: "Future[Any]") -> int | None:
    try:
        return int(future.result(timeout=REQUEST_TIMEOUT_S).offset)
    except (KafkaException, TimeoutError):
        return None


def _code(exception: KafkaException) -> int:
    return int(exception.args[0].code())


def _state(description: TopicDescription, config: Mapping[str, ConfigEntry]) -> TopicState:
    return TopicState(
        name=description.name,
        partitions=len(description.partitions),
        replication_factor=min(len(partition.replicas) for partition in description.partitions),
        config={name: entry.value for name, entry in config.items() if entry.value is not None},
        topic_id=str(description.topic_id),
    )


def _settings(action: AlterConfig) -> ConfigResource:
    changes = [
        ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in action.config.items()
    ]
    return ConfigResource(ResourceType.TOPIC, action.name, incremental_configs=changes)
