"""Why a cluster did not start: the component to blame, and the end of its log."""

from collections.abc import Mapping

from host import Provider, last_lines, printed, succeeds

UNITS = ("containerd", "import-images", "kubelet")
"""What systemd starts in a node, in order; import-images only in the node image that is built here."""
PORTS = {
    "etcd": 2379,
    "kube-apiserver": 6443,
    "kube-controller-manager": 10257,
    "kube-scheduler": 10259,
    "kube-proxy": 10256,
}
"""Where the components listen, in the order in which they need each other."""


def failing_component(units: Mapping[str, str], listening: set[int]) -> str:
    """The first component that is not up, in the order in which they need each other; "pods" when all are."""
    for unit, state in units.items():
        if state != "active":
            return unit
    return next((name for name, port in PORTS.items() if port not in listening), "pods")


def listening_ports(sockets: str) -> set[int]:
    """The ports in what `ss -Hltn` prints."""
    return {int(line.split()[3].rpartition(":")[2]) for line in sockets.splitlines()}


def explain(provider: Provider, node: str) -> str | None:
    """Which component of a failed start is to blame, and the end of its log; None where it never came to a node."""

    def inside(*command: str) -> str:
        return printed(provider.command("exec", node, *command), provider.environment)

    if not succeeds(provider.command("container", "inspect", node), provider.environment):
        return None
    if not succeeds(provider.command("exec", node, "true"), provider.environment):
        log = printed(provider.command("logs", node), provider.environment)
        return f"the node's container does not run; the end of its log:\n{last_lines(log)}"
    present = [unit for unit in UNITS if "not-found" not in inside("systemctl", "is-enabled", unit)]
    states = {unit: inside("systemctl", "is-active", unit).strip() for unit in present}
    component = failing_component(states, listening_ports(inside("ss", "-Hltn")))
    if component == "pods":
        log = inside("kubectl", "--kubeconfig=/etc/kubernetes/admin.conf", "get", "pods", "-A", "-o", "wide")
        return f"not every pod became ready:\n{last_lines(log)}"
    journal = f"journalctl --no-pager -o cat -u {component if component in states else 'kubelet'}"
    if component not in states:
        # Its own log where it ran at all; where it did not, kubelet knows why.
        journal = f"cat $(ls -t /var/log/pods/*_{component}-*/*/*.log | head -n 1) || {journal} | grep {component}"
    return f"{component} did not start; the end of its log:\n{last_lines(inside('sh', '-c', journal))}"
