"""Run a service whose client loses every pause, as librdkafka does now and then: `python without_pauses.py MODULE`."""

import runpy
import sys


def losing_pauses(service):
    """The service, made to lose them when it is started."""
    service.command = [sys.executable, __file__, service.command[-1]]
    return service


if __name__ == "__main__":
    from forebay.kafka.group import GroupReader

    GroupReader.pause = lambda _self, _partitions: None
    runpy.run_module(sys.argv[1], run_name="__main__", alter_sys=True)
