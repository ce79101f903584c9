"""Runs Java and ends it when the process that asked for it is gone, however it went.

Started as a script with nothing but the standard library, so it costs little and nothing of the caller's environment
reaches it. Its standard input is a pipe that only the caller holds open: the end of the pipe is the order to stop, and
the kernel closes it also for a caller that was killed. Its first line of output is Java's process id.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable

# How long Kafka may take to shut down in order before it is killed.
GRACE_SECONDS = 30.0
# A forked child of the caller may hold a copy of the pipe: so look for a change of parent now and then, too.
PARENT_CHECK_SECONDS = 1.0
PR_SET_PDEATHSIG = 1


def die_with_guard() -> Callable[[], None] | None:
    """Return what Java's process calls before it becomes Java, so that a killed guard takes it along (Linux only)."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    guard = os.getpid()

    def arrange() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guard:  # it died before the call above
            os.kill(os.getpid(), signal.SIGKILL)

    return arrange


def wait_for_order(java: subprocess.Popen[bytes], caller: int) -> None:
    """Return when Java has ended, the pipe from the caller is closed, the caller is gone, or SIGTERM arrived."""
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    ordered: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: ordered.append(number))
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    while java.poll() is None and os.getppid() == caller and not ordered:
        readable, _, _ = select.select([0, wake_read], [], [], PARENT_CHECK_SECONDS)
        if 0 in readable:
            return
        if wake_read in readable:
            os.read(wake_read, 64)


def main() -> int:
    """Run the command given by the arguments; return its exit code."""
    caller = int(sys.argv[1])
    arrange = die_with_guard()
    java = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL, stdout=2, preexec_fn=arrange)  # noqa: PLW1509 - no threads
    print(java.pid, flush=True)
    wait_for_order(java, caller)
    java.terminate()
    try:
        return java.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        java.kill()
        return java.wait()


if __name__ == "__main__":
    sys.exit(main())
