"""The one place that derives Kafka's names from a Pipeline's.

Namespace, Pipeline, stage and transform names are DNS labels, which hold no dot. A dot therefore separates them without
ambiguity, and a prefix that ends in a dot (for ACLs) never covers a neighbour's names.
"""

from forebay.pipeline.spec import ConsumingStage, Pipeline, Processor, Producer, Stage, Transform


def group_id(pipeline: Pipeline, stage: ConsumingStage) -> str:
    """The consumer group of a processor or sink."""
    return f"{pipeline.metadata.namespace}.{pipeline.metadata.name}.{stage.name}"


def transactional_id(pipeline: Pipeline, stage: Stage, ordinal: int) -> str:
    """Stable per replica: a successor fences and unblocks its predecessor at once, whatever became of it."""
    return f"{transactional_ids(pipeline, stage)}{ordinal}"


def transactional_ids(pipeline: Pipeline, stage: Stage) -> str:
    """What the transactional ids of all replicas of a stage begin with, and nobody else's."""
    return f"{users(pipeline)}{stage.name}."


def users(pipeline: Pipeline) -> str:
    """What the names of all managed users of a Pipeline begin with, and nobody else's."""
    return f"{pipeline.metadata.namespace}.{pipeline.metadata.name}."


def user(pipeline: Pipeline, stage: Stage, generation: int) -> str:
    """The managed user of a stage. Two take turns, so that the next is ready before the last one goes."""
    return f"{users(pipeline)}{stage.name}.{'ba'[generation % 2]}"


def login_secret(pipeline: Pipeline, stage: Stage) -> str:
    """The Secret with the managed user of a stage."""
    return f"{workload(pipeline, stage)}-kafka-user"


def dead_letter_topic(stage: ConsumingStage) -> str:
    """Where the records go that the stage cannot process."""
    return stage.dead_letters.topic if stage.dead_letters else f"{stage.from_}.dlq"


def positions_topic(pipeline: Pipeline, stage: Producer) -> str:
    """The compacted topic in which a producer's replicas keep the position of their source."""
    return f"{pipeline.metadata.namespace}.{pipeline.metadata.name}.{stage.name}.positions"


def changelog_topic(pipeline: Pipeline, stage: Processor, transform: Transform) -> str:
    """The compacted topic from which a stateful transform's state is restored."""
    owner = f"{pipeline.metadata.namespace}.{pipeline.metadata.name}.{stage.name}"
    return f"{owner}.{transform.name}.v{transform.state_version}.changelog"


def replica(stage: Stage, ordinal: int) -> str:
    """A replica's name in logs and folders, as a StatefulSet names its pods."""
    return f"{stage.name}-{ordinal}"


GROUP = "forebay.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
PIPELINE_LABEL = f"{GROUP}/pipeline"
"""On everything that belongs to a Pipeline: its name."""
STAGE_LABEL = f"{GROUP}/stage"
TEMPLATE_ANNOTATION = f"{GROUP}/template"
"""On everything that the operator applied: a hash of that."""
FINALIZER = f"{GROUP}/outside"
"""While there is something outside Kubernetes to clean up."""
PAUSED_ANNOTATION = f"{GROUP}/paused"
"""On a Pipeline, "true": the operator changes nothing for it."""
RELEASE_ANNOTATION = f"{GROUP}/release"
"""On a Pipeline that is being deleted, "true": let it go, and leave in Kafka what is there."""
ADOPT_ANNOTATION = f"{GROUP}/adopt"
"""On a Pipeline, "true": topics that existed before it and differ may be changed."""
ROTATE_ANNOTATION = f"{GROUP}/rotate"
"""On a Pipeline: managed users are replaced once for every new value, whatever it is."""
ISSUED_AT_ANNOTATION = f"{GROUP}/issued-at"
"""On the Secret of a managed user: when it was written, in epoch seconds."""
ROTATED_FOR_ANNOTATION = f"{GROUP}/rotated-for"
"""On the Secret of a managed user: what the Pipeline's `ROTATE_ANNOTATION` was then."""


def workload(pipeline: Pipeline, stage: Stage) -> str:
    """The StatefulSet or Deployment of a stage."""
    return f"{pipeline.metadata.name}-{stage.name}"
