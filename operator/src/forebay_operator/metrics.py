"""What the operator counts."""

from collections.abc import Mapping

from prometheus_client import Counter, Gauge, Histogram

RECONCILES = Counter("forebay_operator_reconciles", "Rounds over a Pipeline, by result", ["result"])
RECONCILE_SECONDS = Histogram(
    "forebay_operator_reconcile_seconds",
    "Time of one round over a Pipeline",
    buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100),
)
STEPS = Counter("forebay_operator_steps", "Steps taken, by kind and result", ["step", "result"])
OLDEST_UNFINISHED = Gauge(
    "forebay_operator_oldest_unfinished_seconds", "Age of the oldest change that has not been dealt with"
)
WATCH_SILENCE = Gauge("forebay_operator_watch_silence_seconds", "Since the last event of any watch")
LOOP_LAG = Gauge("forebay_operator_loop_lag_seconds", "By how much the event loop was late")
KAFKA_ERRORS = Counter("forebay_operator_kafka_errors", "Requests to Kafka that failed", ["cluster"])
API_CALLS = Counter("forebay_operator_api_calls", "Requests to Kubernetes, without watches", ["verb", "kind"])
STATUS_PATCHES = Counter("forebay_operator_status_patches", "Writes to the status of Pipelines")
PIPELINES = Gauge("forebay_operator_pipelines", "Pipelines, by whether they are ready", ["ready"])
UPGRADING = Gauge(
    "forebay_operator_upgrading_pipelines",
    "Pipelines that a new version of the operator renders anew: rolling out, or waiting for those",
    ["state"],
)
LAG = Gauge("forebay_operator_lag_records", "Records not yet read", ["namespace", "pipeline", "stage"])
BEHIND = Gauge("forebay_operator_behind_seconds", "Age of the oldest unread record", ["namespace", "pipeline", "stage"])
REPLICAS = Gauge("forebay_operator_wanted_replicas", "Replicas decided on", ["namespace", "pipeline", "stage"])
CAPACITY = Gauge(
    "forebay_operator_replica_capacity_records_per_second",
    "What one replica was measured to do",
    ["namespace", "pipeline", "stage"],
)
DECISIONS = Counter(
    "forebay_operator_scaling_decisions",
    "Verdicts on the replicas of a stage, one at each look, by reason",
    ["namespace", "pipeline", "stage", "reason"],
)
CERTIFICATE_EXPIRY = Gauge(
    "forebay_operator_certificate_expiry_timestamp_seconds",
    "When a certificate in a Secret of a Pipeline expires; of several authorities the last",
    ["namespace", "pipeline", "secret", "key"],
)
CREDENTIAL_SINCE = Gauge(
    "forebay_operator_credential_since_timestamp_seconds",
    "When the managed user of a stage was written to its Secret",
    ["namespace", "pipeline", "stage"],
)
CREDENTIALS_ISSUED = Counter(
    "forebay_operator_credentials_issued",
    "Managed users that were written to a Secret, the first of a stage included",
    ["namespace", "pipeline", "stage"],
)


def show_expiries(pipeline: tuple[str, str], expiries: Mapping[tuple[str, str], float]) -> None:
    """Show the ends of certificates, by Secret and key, and none that a Pipeline no longer has."""
    namespace, name = pipeline
    CERTIFICATE_EXPIRY.remove_by_labels({"namespace": namespace, "pipeline": name})
    for (secret, key), end in expiries.items():
        CERTIFICATE_EXPIRY.labels(namespace, name, secret, key).set(end)


def show_credentials(pipeline: tuple[str, str], issued: Mapping[str, float]) -> None:
    """Show since when stages have their managed users, and none that a Pipeline no longer has."""
    namespace, name = pipeline
    CREDENTIAL_SINCE.remove_by_labels({"namespace": namespace, "pipeline": name})
    for stage, since in issued.items():
        CREDENTIAL_SINCE.labels(namespace, name, stage).set(since)


def forget_credentials(pipeline: tuple[str, str]) -> None:
    """The Pipeline is gone, or another one has its name."""
    show_expiries(pipeline, {})
    show_credentials(pipeline, {})
    CREDENTIALS_ISSUED.remove_by_labels({"namespace": pipeline[0], "pipeline": pipeline[1]})


def forget_lag(pipeline: tuple[str, str], stage: str) -> None:
    """Show no lag where none is known: the last known one would look like one of now."""
    LAG.remove(*pipeline, stage)
    BEHIND.remove(*pipeline, stage)


def forget(pipeline: tuple[str, str], stage: str | None = None) -> None:
    """Show nothing of a stage that is gone, or of a whole Pipeline."""
    namespace, name = pipeline
    labels = {"namespace": namespace, "pipeline": name} | ({} if stage is None else {"stage": stage})
    for metric in (LAG, BEHIND, REPLICAS, CAPACITY, DECISIONS):
        metric.remove_by_labels(labels)
