"""Run a service that breaks at one exact point of its loop: `python crashing.py POINT NTH MODULE SIGNAL`.

POINT is module:Class.method with `<` (before) or `>` (after) in front; NTH counts calls from 1. SIGNAL is
SIGKILL or SIGSTOP. The rest of the process is what ships.
"""

import functools
import importlib
import os
import runpy
import signal
import sys


def crash_at(point: str, nth: int, number: signal.Signals) -> None:
    moment, place = point[0], point[1:]
    module_name, _, path = place.partition(":")
    class_name, _, method_name = path.partition(".")
    owner = getattr(importlib.import_module(module_name), class_name)
    original = getattr(owner, method_name)
    calls = 0

    @functools.wraps(original)
    def crashing(*arguments, **keywords):
        nonlocal calls
        calls += 1
        if calls == nth and moment == "<":
            os.kill(os.getpid(), number)
        result = original(*arguments, **keywords)
        if calls == nth and moment == ">":
            os.kill(os.getpid(), number)
        return result

    setattr(owner, method_name, crashing)


def breaking(service, point: str, nth: int, number: signal.Signals = signal.SIGKILL):
    """The service, made to break itself at the point when it is started."""
    service.command = [sys.executable, __file__, point, str(nth), service.command[-1], number.name]
    return service


if __name__ == "__main__":
    crash_at(sys.argv[1], int(sys.argv[2]), signal.Signals[sys.argv[4]])
    runpy.run_module(sys.argv[3], run_name="__main__", alter_sys=True)
