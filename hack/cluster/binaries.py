"""The programs of a cluster, compiled from the pinned Go modules in go/ and cached by what they are made of.

Each module names its programs with `tool` lines (or is a program itself); go.sum pins every byte of the sources.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from artifacts import digest, ensure_folder, locked
from host import HERE, cache, ensure_go, output, run_logged, say

KUBERNETES = "1.34.4"


def kubernetes_flags() -> str:
    """Linker flags that make the components report the version that they are; unset, they claim to be v0.0.0."""
    major, minor, _ = KUBERNETES.split(".")
    values = {"gitVersion": f"v{KUBERNETES}", "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return " ".join(f"-X {package}.{key}={value}" for package in packages for key, value in values.items())


@dataclass(frozen=True, kw_only=True)
class Module:
    """A folder in go/ and what to compile there."""

    name: str
    programs: Sequence[str] = ("tool",)
    flags: str = ""

    @property
    def source(self) -> Path:
        """Where its go.mod is."""
        return HERE / "go" / self.name

    @property
    def target(self) -> Path:
        """Where its programs are, once they are compiled."""
        return cache() / "bin" / f"{self.name}-{digest([self.source, self.flags, *self.programs])}"


TOOLS = Module(name="tools")
"""kind, helm, kubeconform."""
KUBECTL = Module(name="kubernetes", programs=["k8s.io/kubernetes/cmd/kubectl"], flags=kubernetes_flags())
"""kubectl alone, for machines that have none and need no node image."""
COMPONENTS = (
    Module(name="pause", programs=["."]),
    Module(name="etcd"),
    Module(name="coredns", programs=["."]),
    Module(name="local-path-provisioner"),
    Module(name="kubernetes", flags=kubernetes_flags()),
)
"""What the node image is made of."""

GO_MINUTES = {"tools": 3, "pause": 0, "etcd": 1, "coredns": 2, "local-path-provisioner": 1, "kubernetes": 9}
"""How long each module compiles on 2 cores, roughly; said before it begins."""


def build(module: Module) -> Path:
    """The folder of a module's programs, compiled now if they never were."""

    def compile_alone(folder: Path) -> None:
        with locked("go"):
            compile_into(folder, module)

    return ensure_folder(module.target, compile_alone)


def drop_sources() -> None:
    """Remove what compiling needed and running does not: of Kubernetes, seven gigabytes."""
    with locked("go"):
        shutil.rmtree(cache() / "go", ignore_errors=True)


def compile_into(folder: Path, module: Module) -> None:
    """Compile statically, with caches of our own: nothing of the user's Go setup is changed."""
    go = str(ensure_go())
    environment = {
        "CGO_ENABLED": "0",
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
        "GOFLAGS": "-trimpath -modcacherw -buildvcs=false",
        "GOCACHE": str(cache() / "go" / "build"),
        "GOMODCACHE": str(cache() / "go" / "mod"),
    }
    say(f"compiling {module.name} (Go in {Path(go).parent})")
    run_logged(f"fetch {module.name}", [go, "mod", "download"], environment=environment, folder=module.source)
    packages = len(
        output([go, "list", "-deps", *module.programs], environment, timeout=600, folder=module.source).splitlines()
    )
    run_logged(
        f"compile {module.name}",
        [go, "build", "-v", "-ldflags", f"-s -w {module.flags}", "-o", f"{folder}/", *module.programs],
        environment=environment,
        folder=module.source,
        progress=lambda log: f"({len(log.splitlines())} of at most {packages} packages compiled)",
    )
