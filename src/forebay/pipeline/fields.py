"""Which fields the records of a topic hold: as declared, or else derived through the stages that write it."""

from collections.abc import Iterator

from forebay.pipeline.spec import (
    FieldMapping,
    FieldType,
    MappedType,
    PipelineSpec,
    Processor,
    RecordField,
    Source,
    Transform,
)

Fields = tuple[RecordField, ...]

SIMULATED: Fields = (
    RecordField(name="device_id", type=FieldType.STRING),
    RecordField(name="timestamp", type=FieldType.INTEGER),
    RecordField(name="temperature_c", type=FieldType.NUMBER),
    RecordField(name="humidity_pct", type=FieldType.NUMBER),
)
"""What the simulator sends."""


def fields_of(spec: PipelineSpec, topic: str) -> Fields | None:
    """The fields of the topic's records, in order; None where nobody can know them: declare `fields` then."""
    return _fields_of(spec, topic, frozenset())


def source_fields(source: Source) -> Fields | None:
    """The fields of the records that a source makes; None for a file without mappings."""
    if source.simulator is not None:
        return SIMULATED
    if source.file is not None and source.file.fields:
        return tuple(RecordField(name=mapping.name, type=_type(mapping)) for mapping in source.file.fields)
    return None


def after(fields: Fields | None, transform: Transform) -> Fields | None:
    """The fields of the records that leave a transform, given those that enter it."""
    if fields is None or transform.python is not None:
        return None
    if transform.moving_average is None:
        return fields
    output = RecordField(name=transform.moving_average.output, type=FieldType.NUMBER)
    return (*(field for field in fields if field.name != output.name), output)


def _fields_of(spec: PipelineSpec, name: str, below: frozenset[str]) -> Fields | None:
    """`below` holds the topics on the way here: a rule refuses cycles, and this must end all the same."""
    declared = next((topic.fields for topic in spec.topics if topic.name == name), ())
    if declared:
        return declared
    if name in below:
        return None
    writers = list(_written(spec, name, below | {name}))
    return writers[0] if writers and all(fields == writers[0] for fields in writers) else None


def _written(spec: PipelineSpec, name: str, below: frozenset[str]) -> Iterator[Fields | None]:
    for producer in spec.producers:
        if producer.to == name:
            yield source_fields(producer.source)
    for processor in spec.processors:
        if processor.to == name:
            yield _processed(spec, processor, below)


def _processed(spec: PipelineSpec, stage: Processor, below: frozenset[str]) -> Fields | None:
    fields = _fields_of(spec, stage.from_, below)
    for transform in stage.transforms:
        fields = after(fields, transform)
    return fields


def _type(mapping: FieldMapping) -> FieldType:
    return FieldType.INTEGER if mapping.type is MappedType.TIMESTAMP else FieldType(mapping.type.value)
