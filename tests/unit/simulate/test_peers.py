"""The peers decide as their own documentation and tests say: every figure here is theirs."""

import math

import pytest

from forebay_cli.simulate.policies.flink import FlinkSettings, aligned, parallelism, required
from forebay_cli.simulate.policies.keda import KedaSettings, metric, next_factor, recommended
from forebay_cli.simulate.policies.numaflow import Numaflow, NumaflowSettings, desired
from forebay_cli.simulate.world import Arrivals, Setting


@pytest.mark.parametrize(
    ("lag", "consumers"), [(1, 1), (10, 1), (11, 2), (20, 2), (21, 5), (50, 5), (51, 10), (1000, 10)]
)
def test_keda_even_distribution_of_ten_partitions(lag, consumers):
    """keda-docs 2.17, scalers/apache-kafka.md, `ensureEvenDistributionOfPartitions`: the table for 10 partitions."""
    settings = KedaSettings(lag_threshold=10, even_distribution=True)
    lags = [lag // 10 + (number < lag % 10) for number in range(10)]

    assert metric(lags, settings)[0] / settings.lag_threshold == consumers


@pytest.mark.parametrize(("lag", "factor"), [(10, 1), (20, 2), (40, 4), (50, 5), (99, 10), (100, 10), (101, 20)])
def test_keda_next_factor(lag, factor):
    """keda, pkg/scalers/kafka_scaler_test.go, TestGetNextFactor: 100 partitions, threshold 10."""
    assert next_factor(lag, 100, 10) == factor


def test_keda_never_asks_for_more_than_partitions():
    """keda-docs 2.17, scalers/apache-kafka.md, the notice at its beginning."""
    assert metric([1000, 1000, 1000], KedaSettings(lag_threshold=5))[0] == 3 * 5
    assert metric([1000, 0, 0], KedaSettings(lag_threshold=5, limit_to_partitions_with_lag=True))[0] == 1 * 5


def test_keda_is_active_above_its_activation_threshold():
    """keda-docs, concepts/scaling-deployments.md: active when the value is greater than the activation value."""
    assert metric([0, 0], KedaSettings()) == (0, False)
    assert metric([1, 0], KedaSettings())[1]
    assert not metric([3, 0], KedaSettings(activation_lag_threshold=3))[1]


def test_keda_defaults():
    """keda-docs 2.17, scalers/apache-kafka.md and reference/scaledobject-spec.md."""
    assert KedaSettings() == KedaSettings(
        lag_threshold=10,
        activation_lag_threshold=0,
        polling_interval_s=30.0,
        cooldown_s=300.0,
        min_replica_count=0,
        max_replica_count=100,
        even_distribution=False,
        limit_to_partitions_with_lag=False,
    )


@pytest.mark.parametrize(
    ("replicas", "value", "target", "wanted"),
    [
        (4, 4 * 200, 100, 8),  # twice the metric, twice the replicas
        (4, 4 * 50, 100, 2),  # half of it
        (10, 10 * 105, 100, 10),  # within the tolerance of a tenth
        (10, 10 * 95, 100, 10),
        (10, 10 * 111, 100, 12),
    ],
)
def test_the_horizontal_pod_autoscaler(replicas, value, target, wanted):
    """kubernetes.io, Horizontal Pod Autoscaling, algorithm details: 200m against 100m doubles, 50m halves, tolerance 0.1."""
    assert recommended(replicas, value, target) == wanted


def test_numaflow_source():
    """numaflow, docs/specifications/autoscaling.md: 60000 / (3 * (10000 / 2)) = 4."""
    assert desired(pending=60_000, rate=10_000, ready=2, target_processing_s=3) == 4


def test_numaflow_goes_to_zero_only_when_nothing_is_pending_and_nothing_processed():
    """numaflow, pkg/reconciler/vertex/scaling/scaling.go, desiredReplicas."""
    assert desired(0, 0, 3, 20) == 0
    assert desired(0, 500, 3, 20) == 1
    assert desired(500, 0, 3, 20) == 1


@pytest.mark.parametrize(("replicas", "wanted", "step"), [(3, 8, 5), (9, 4, 7), (3, 4, 4), (9, 8, 8)])
def test_numaflow_moves_two_replicas_at_a_time(replicas, wanted, step):
    """numaflow, docs/user-guide/reference/autoscaling.md, replicasPerScaleUp and replicasPerScaleDown."""
    load = Arrivals(None, Setting(), None, None, None)

    assert Numaflow(load, 0).stepped(1000.0, replicas, wanted) == step


def test_numaflow_waits_between_steps():
    """numaflow, docs/user-guide/reference/autoscaling.md: both cooldowns are 90 s."""
    scaler = Numaflow(Arrivals(None, Setting(), None, None, None), 0)

    assert scaler.stepped(1000.0, 3, 8) == 5
    assert scaler.stepped(1089.0, 5, 8) == 5
    assert scaler.stepped(1090.0, 5, 8) == 7


def test_numaflow_defaults():
    """numaflow, docs/user-guide/reference/autoscaling.md."""
    assert NumaflowSettings() == NumaflowSettings(
        minimum=0,
        maximum=50,
        lookback_s=120.0,
        scale_up_cooldown_s=90.0,
        scale_down_cooldown_s=90.0,
        zero_replica_sleep_s=120.0,
        target_processing_s=20.0,
        replicas_per_scale_up=2,
        replicas_per_scale_down=2,
    )


def flink(current, target, true_rate, **settings):
    """JobVertexScalerTest's set-up: no catch-up, 720 key groups; the parallelism before alignment."""
    chosen = FlinkSettings(
        **{"catch_up_s": 0.0, "max_scale_down_factor": 1.0, "max_scale_up_factor": float(2**31 - 1)} | settings
    )
    needed = required(target, 0.0, chosen.utilization_target, chosen, restarts=True)
    return parallelism(current, needed, true_rate, 720, chosen)


@pytest.mark.parametrize(
    ("utilization", "current", "target", "true_rate", "wanted"),
    [
        (1.0, 10, 50, 100, 5),
        (0.8, 10, 50, 100, 7),  # 8 after alignment
        (0.8, 10, 80, 100, 10),
        (0.8, 10, 60, 100, 8),
        (0.8, 10, 59, 100, 8),
        (0.5, 2, 100, 40, 10),
        (0.6, 2, 100, 100, 4),
    ],
)
def test_flink_parallelism(utilization, current, target, true_rate, wanted):
    """flink-kubernetes-operator, JobVertexScalerTest.testParallelismScaling."""
    assert flink(current, target, true_rate, utilization_target=utilization) == wanted


@pytest.mark.parametrize(
    ("settings", "current", "target", "true_rate", "wanted"),
    [
        ({"max_scale_down_factor": 0.5}, 10, 10, 100, 5),
        ({"max_scale_down_factor": 0.6}, 10, 10, 100, 4),
        ({"max_scale_up_factor": 0.5}, 10, 200, 10, 15),
        ({"max_scale_up_factor": 0.6}, 10, 200, 10, 16),
        ({"vertex_max_parallelism": 10}, 10, 500, 100, 10),
        ({"vertex_max_parallelism": 10}, 12, 500, 100, 12),
    ],
)
def test_flink_limits(settings, current, target, true_rate, wanted):
    """The same test, and testMaxParallelismLimitIsUsed."""
    assert flink(current, target, true_rate, utilization_target=1.0, **settings) == wanted


@pytest.mark.parametrize(
    ("current", "target", "partitions", "wanted"),
    [(10, 7, 720, 8), (16, 24, 128, 26), (6, 5, 720, 5), (200, 400, 720, 720)],
)
def test_flink_alignment(current, target, partitions, wanted):
    """Mode BALANCED, JobVertexScaler: the first count that divides the key groups, or has fewer of them on each subtask."""
    found = aligned(current, target, partitions, partitions)

    assert target <= found <= wanted
    assert partitions % found == 0 or partitions // found < partitions // target


def test_flink_capacity_provides_for_backlog_and_restart():
    """docs/custom-resource/autoscaler.md, target catch-up duration and restart time; ScalingMetricEvaluator."""
    settings = FlinkSettings(catch_up_s=1800.0, restart_s=300.0)

    assert required(700.0, 0.0, 0.7, settings, restarts=False) == 1000
    assert required(700.0, 1800.0, 0.7, settings, restarts=False) == 1001
    assert required(700.0, 0.0, 0.7, settings, restarts=True) == round(1000 + 700 * 300 / 1800)
    assert required(700.0, 0.0, 0.0, settings, restarts=True) == math.inf


def test_flink_defaults():
    """docs, operations/configuration.md, autoscaler configuration."""
    assert FlinkSettings() == FlinkSettings(
        metrics_window_s=900.0,
        stabilization_s=300.0,
        utilization_target=0.7,
        utilization_boundary=0.3,
        catch_up_s=1800.0,
        restart_s=300.0,
        scale_down_interval_s=3600.0,
        max_scale_down_factor=0.6,
        max_scale_up_factor=100_000.0,
    )
