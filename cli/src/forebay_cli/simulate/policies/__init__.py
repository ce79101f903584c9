"""The policies by name: Forebay, its peers at their documented defaults and at one tuned setting each, reference lines."""

from collections.abc import Mapping
from functools import partial

from forebay_cli.simulate.policies.flink import Flink, FlinkSettings
from forebay_cli.simulate.policies.forebay import Forebay
from forebay_cli.simulate.policies.keda import Keda, KedaSettings
from forebay_cli.simulate.policies.numaflow import Numaflow, NumaflowSettings
from forebay_cli.simulate.policies.references import Fixed, Maximum, Oracle
from forebay_cli.simulate.world import Make

# Of the settings that hack/tune_peers.py tries, those with the fewest seconds over the promise on the repository's traces.
KEDA_TUNED = KedaSettings(lag_threshold=300, even_distribution=True, polling_interval_s=5.0, min_replica_count=1)
NUMAFLOW_TUNED = NumaflowSettings(
    minimum=1,
    target_processing_s=1.0,
    lookback_s=30.0,
    scale_up_cooldown_s=15.0,
    scale_down_cooldown_s=90.0,
    replicas_per_scale_up=12,
)
FLINK_TUNED = FlinkSettings(
    metrics_window_s=60.0,
    stabilization_s=0.0,
    utilization_target=0.75,
    utilization_boundary=0.15,
    catch_up_s=60.0,
    restart_s=10.0,
    scale_down_interval_s=600.0,
)

POLICIES: Mapping[str, Make] = {
    "forebay": Forebay,
    "keda": Keda,
    "keda-tuned": partial(Keda, settings=KEDA_TUNED),
    "numaflow": Numaflow,
    "numaflow-tuned": partial(Numaflow, settings=NUMAFLOW_TUNED),
    "flink": Flink,
    "flink-tuned": partial(Flink, settings=FLINK_TUNED),
    "fixed": Fixed,
    "maximum": Maximum,
    "oracle": Oracle,
}
PEERS = tuple(name for name in POLICIES if name.split("-")[0] in {"keda", "numaflow", "flink"})
