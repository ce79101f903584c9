"""What a cluster leaves on the machine when its containers are gone, and its removal.

Podman's network layer keeps its shared chains, the mount of /run/netns and empty cgroups for the next container; after
`cluster-down` none may come. Nothing here touches what another container still uses.
"""

import os
import re
import shlex
import shutil
import signal
import time
from collections.abc import Collection, Iterable
from pathlib import Path

from host import RUN, printed, succeeds

NETWORK_CHAIN = re.compile(r"NETAVARK-(?!HOSTPORT)[0-9A-F]{8,}|NETAVARK-DN-")
"""The chains that a network has of its own; while there is one, somebody's container still needs the shared ones."""
TABLE_PROGRAMS = ("iptables", "ip6tables")


def saved_rules(program: str) -> str:
    """What iptables-save or ip6tables-save prints; nothing where it is not installed."""
    return printed([f"{program}-save"]) if shutil.which(f"{program}-save") else ""


def stale_rules(saved: str) -> list[list[str]]:
    """The arguments of the iptables commands that remove Podman's shared chains, given what iptables-save prints."""
    jumps: list[list[str]] = []
    chains: list[tuple[str, str]] = []
    table = ""
    for line in saved.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith(":NETAVARK"):
            chains.append((table, line[1:].split()[0]))
        elif line.startswith("-A ") and " -j NETAVARK" in line and not line.startswith("-A NETAVARK"):
            jumps.append(["-t", table, "-D", *shlex.split(line)[1:]])
    # A chain that another refers to cannot be removed: all are emptied first.
    emptied = [["-t", table, "-F", chain] for table, chain in chains]
    return jumps + emptied + [["-t", table, "-X", chain] for table, chain in chains]


def remove_rules() -> None:
    """Remove the chains that Podman's networks share."""
    for program in TABLE_PROGRAMS:
        for arguments in stale_rules(saved_rules(program)):
            succeeds([program, "--wait", *arguments])


def mounts_below(mountinfo: str, folder: Path) -> list[str]:
    """The mount points at or below a folder, innermost first."""
    points = [line.split()[4] for line in mountinfo.splitlines()]
    below = [point for point in points if point == str(folder) or point.startswith(f"{folder}/")]
    return sorted(below, key=len, reverse=True)


def unmount(folders: Iterable[Path]) -> None:
    """Undo every mount at or below the folders."""
    for folder in folders:
        for point in mounts_below(Path("/proc/self/mountinfo").read_text(), folder):
            succeeds(["umount", "--lazy", point])


def remove_network_namespaces() -> None:
    """Undo the mount that holds network namespaces, when it holds none."""
    folder = Path("/run/netns")
    if folder.is_dir() and not any(folder.iterdir()):
        unmount([folder])
        remove_empty(folder)


def remove_empty(folder: Path) -> None:
    """Remove a folder unless something is in it."""
    try:
        folder.rmdir()
    except OSError:
        return


def remove_cgroups() -> None:
    """Remove the cgroups of Podman's containers; those in use cannot be removed, so they stay."""
    for parent in [Path("/sys/fs/cgroup/libpod_parent"), *Path("/sys/fs/cgroup").glob("*/libpod_parent")]:
        for folder, _, _ in os.walk(parent, topdown=False):
            remove_empty(Path(folder))


def processes(programs: Collection[str], word: str) -> list[int]:
    """The processes of these programs whose arguments contain a word."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                arguments = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            if Path(arguments[0]).name in programs and any(word in argument for argument in arguments):
                found.append(int(entry.name))
    return found


def end(pids: Iterable[int], patience: float = 5) -> None:
    """Ask processes to end; after some seconds, make them."""
    pids = list(pids)
    for pid in pids:
        kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + patience
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    for pid in pids:
        kill(pid, signal.SIGKILL)


def kill(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may be gone."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def remove_podman(storage: Path) -> None:
    """Remove everything that our Podman keeps outside its image store, once no container of it runs."""
    end(processes({"podman", "conmon"}, f"{RUN}/"))
    if not any(NETWORK_CHAIN.search(saved_rules(program)) for program in TABLE_PROGRAMS):
        remove_rules()
        # Podman keeps this in one place for all its configurations.
        shutil.rmtree("/run/containers/networks", ignore_errors=True)
        remove_empty(Path("/run/containers"))
        remove_empty(Path("/run/runc"))
    unmount([RUN, storage])
    remove_network_namespaces()
    remove_cgroups()
    shutil.rmtree(RUN, ignore_errors=True)
