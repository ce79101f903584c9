"""The policies by name: Forebay, its peers at their documented defaults and at one tuned setting each, reference lines."""

from collections.abc import Mapping
from functools import partial

from forebay_cli.simulate.policies.flink import Flink, FlinkSettings
from forebay_cli.simulate.policies.forebay import Forebay
from forebay_cli.simulate.policies.keda import Keda, KedaSettings
from forebay_cli.simulate.policies.numaflow import Numaflow, NumaflowSettings
from forebay_cli.simulate.policies.references import Fixed, Oracle
from forebay_cli.simulate.world import Make

KEDA_TUNED = KedaSettings(lag_threshold=1000, polling_interval_s=5.0, min_replica_count=1)
NUMAFLOW_TUNED = NumaflowSettings(minimum=1, target_processing_s=1.0)
FLINK_TUNED = FlinkSettings(metrics_window_s=60.0, stabilization_s=0.0)

POLICIES: Mapping[str, Make] = {
    "forebay": Forebay,
    "keda": Keda,
    "keda-tuned": partial(Keda, settings=KEDA_TUNED),
    "numaflow": Numaflow,
    "numaflow-tuned": partial(Numaflow, settings=NUMAFLOW_TUNED),
    "flink": Flink,
    "flink-tuned": partial(Flink, settings=FLINK_TUNED),
    "fixed": Fixed,
    "oracle": Oracle,
}
PEERS = tuple(name for name in POLICIES if name.split("-")[0] in {"keda", "numaflow", "flink"})
