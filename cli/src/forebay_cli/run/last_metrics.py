"""Runs a service's module and leaves its metrics in a file when it ends: `python -m ... FILE MODULE`.

The supervisor scrapes once a second, and a process that ends takes its counters along. What it counted since the last
scrape (for a source that is done: its last transactions) would be missing from the report.
"""

import atexit
import runpy
import sys

from prometheus_client import REGISTRY, write_to_textfile


def main() -> None:
    """Become the service."""
    _, file, module = sys.argv
    atexit.register(write_to_textfile, file, REGISTRY)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
