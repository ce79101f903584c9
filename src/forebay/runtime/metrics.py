"""A stage's metrics. The loops update them once per batch, never once per record."""

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = tuple(0.001 * 1.3**step for step in range(45))
"""1 ms to about 100 s, each bound 1.3 times the one before: quantiles are good to a few percent by interpolation."""

_RECORDS = (1, 10, 100, 1_000, 10_000, 100_000)


class StageMetrics:
    """Everything a stage counts, bound to its Pipeline and name."""

    def __init__(self, pipeline: str, stage: str, kind: str, registry: CollectorRegistry = REGISTRY) -> None:
        names = ("pipeline", "stage", "kind")
        labels = (pipeline, stage, kind)

        def counter(name: str, text: str) -> Counter:
            return Counter(name, text, names, registry=registry).labels(*labels)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(name, text, names, registry=registry).labels(*labels)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(name, text, names, buckets=buckets, registry=registry).labels(*labels)

        self.records_in = counter("forebay_records_in", "Records taken in, in committed transactions")
        self.records_out = counter("forebay_records_out", "Records written, in committed transactions")
        self.records_dropped = counter("forebay_records_dropped", "Records that a filter or a transform dropped")
        self.records_lost = counter(
            "forebay_records_lost",
            "Offsets that were deleted from the input before they were read (onOffsetLost: Earliest)",
        )
        self._dead_letters = Counter(
            "forebay_dead_letters", "Records sent to the dead-letter topic", (*names, "reason"), registry=registry
        )
        self._errors = Counter("forebay_errors", "Errors by class", (*names, "error"), registry=registry)
        self._transactions = Counter(
            "forebay_transactions", "Transactions by result", (*names, "result"), registry=registry
        )
        self.batch_records = histogram("forebay_batch_records", "Records per transaction", _RECORDS)
        self.processing_seconds = histogram(
            "forebay_processing_seconds", "Time to process the records of one transaction", _SECONDS
        )
        self.commit_seconds = histogram("forebay_commit_seconds", "Time to commit one transaction", _SECONDS)
        self.latency_seconds = histogram(
            "forebay_end_to_end_latency_seconds", "From intake to committed here, on sampled records", _SECONDS
        )
        self.partitions = gauge("forebay_assigned_partitions", "Partitions that this replica owns")
        self.restoring_partitions = gauge("forebay_restoring_partitions", "Partitions whose state is being restored")
        self.restore_remaining = gauge("forebay_restore_remaining_offsets", "Changelog offsets still to be read")
        self.completed = gauge("forebay_source_completed", "1 when a bounded source has sent everything")
        self._generation = Gauge(
            "forebay_credential_generation",
            "Generation of the managed user that this replica logs in as",
            (*names, "secret"),
            registry=registry,
        )
        self._login_since = Gauge(
            "forebay_credential_since_timestamp_seconds",
            "Since when this replica logs in with what the Secret holds",
            (*names, "secret"),
            registry=registry,
        )
        self._certificate_expiry = Gauge(
            "forebay_certificate_expiry_timestamp_seconds",
            "When the certificate in use expires, of a bundle the last one",
            (*names, "secret", "key"),
            registry=registry,
        )
        self._rotations = Counter(
            "forebay_credential_rotations",
            "New credentials taken into use, in place or with new clients",
            (*names, "way"),
            registry=registry,
        )
        self._labels = labels

    def dead_letters(self, reason: str, count: int = 1) -> None:
        """Count dead letters of one reason (a short constant word)."""
        self._dead_letters.labels(*self._labels, reason).inc(count)

    def login(self, secret: str, generation: int | None, since_s: float) -> None:
        """The login in use: its Secret, its generation where it has one, and since when in epoch seconds."""
        self._login_since.labels(*self._labels, secret).set(since_s)
        if generation is not None:
            self._generation.labels(*self._labels, secret).set(generation)

    def certificate(self, secret: str, key: str, expiry_s: float) -> None:
        """When a certificate in use expires, in epoch seconds."""
        self._certificate_expiry.labels(*self._labels, secret, key).set(expiry_s)

    def rotated(self, way: str) -> None:
        """Count new credentials: `in-place`, or `new-clients`."""
        self._rotations.labels(*self._labels, way).inc()

    def error(self, error: BaseException) -> None:
        """Count an error by its class."""
        self._errors.labels(*self._labels, type(error).__name__).inc()

    def committed(self) -> None:
        """Count a committed transaction."""
        self._transactions.labels(*self._labels, "committed").inc()

    def aborted(self) -> None:
        """Count an aborted transaction."""
        self._transactions.labels(*self._labels, "aborted").inc()
