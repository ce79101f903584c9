"""Writing what Python's Kafka client cannot: it takes names of headers as text, its library takes any bytes."""

import ctypes
from pathlib import Path

import confluent_kafka

_TOPIC, _VALUE, _KEY, _MSGFLAGS, _HEADERS, _END = 1, 4, 5, 7, 10, 0
_COPY = 2


def write_with_header(bootstrap: str, topic: str, key: bytes, value: bytes, header: bytes) -> None:
    """Write one record with an empty header of that name."""
    (library,) = Path(confluent_kafka.__file__).parent.with_name("confluent_kafka.libs").glob("librdkafka-*.so*")
    kafka = ctypes.CDLL(str(library))
    for name in ("rd_kafka_conf_new", "rd_kafka_new", "rd_kafka_headers_new"):
        getattr(kafka, name).restype = ctypes.c_void_p
    said = ctypes.create_string_buffer(512)
    settings = ctypes.c_void_p(kafka.rd_kafka_conf_new())
    for setting, chosen in ((b"bootstrap.servers", bootstrap.encode()), (b"partitioner", b"murmur2_random")):
        assert kafka.rd_kafka_conf_set(settings, setting, chosen, said, ctypes.c_size_t(512)) == 0, said.value
    client = ctypes.c_void_p(kafka.rd_kafka_new(0, settings, said, ctypes.c_size_t(512)))
    assert client, said.value
    headers = ctypes.c_void_p(kafka.rd_kafka_headers_new(ctypes.c_size_t(1)))
    kafka.rd_kafka_header_add(headers, header, ctypes.c_ssize_t(len(header)), b"", ctypes.c_ssize_t(0))
    size = ctypes.c_size_t
    arguments = [_TOPIC, topic.encode(), _VALUE, value, size(len(value)), _KEY, key, size(len(key))]
    assert kafka.rd_kafka_producev(client, *arguments, _MSGFLAGS, _COPY, _HEADERS, headers, _END) == 0
    assert kafka.rd_kafka_flush(client, 30_000) == 0
    kafka.rd_kafka_destroy(client)
