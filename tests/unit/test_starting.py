"""Programs that are asked to stop while they load what takes long."""

import subprocess
import sys

import pytest

STOPPED_AT_THE_FIRST_LIBRARY = """
import os, runpy, signal, sys

class Library:
    def find_spec(self, name, *_):
        if name in ("confluent_kafka", "pydantic", "kopf"):
            os.kill(os.getpid(), signal.SIGTERM)

sys.meta_path.insert(0, Library())
runpy.run_module({!r}, run_name="__main__")
"""


@pytest.mark.parametrize("program", ["producer", "processor", "sink", "operator"])
def test_a_program_that_is_asked_to_stop_while_it_loads_ends(program):
    """By a handler of its own: the first process of a container gets no other signals."""
    text = STOPPED_AT_THE_FIRST_LIBRARY.format(f"forebay_{program}")

    assert subprocess.run([sys.executable, "-c", text], timeout=20, check=False).returncode == 0
