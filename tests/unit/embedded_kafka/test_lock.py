"""The committed lock of Kafka's jars."""

import re

from forebay_cli.embedded_kafka.install import LOCK_FILE, ROOTS, Jar, parse_lock, render_lock


def test_a_lock_reads_back_as_it_was_written() -> None:
    jars = (Jar("a:b:1", 10, "0" * 64), Jar("c:d:2", 20, "f" * 64))

    assert parse_lock(render_lock(tuple(reversed(jars)))) == jars


def test_the_committed_lock_is_current_and_names_no_address() -> None:
    text = LOCK_FILE.read_text()
    jars = parse_lock(text)

    assert render_lock(jars) == text
    assert set(ROOTS) <= {jar.coordinate for jar in jars}
    assert len({jar.file_name for jar in jars}) == len(jars)
    assert all(re.fullmatch("[0-9a-f]{64}", jar.sha256) for jar in jars)
    assert "//" not in text
