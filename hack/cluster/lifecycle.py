"""The cluster's life: start, verify, load images, remove."""

import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import dev_images
import images
import traces
from artifacts import locked
from binaries import COMPONENTS, GO_MINUTES, KUBECTL, TOOLS, build, drop_sources
from diagnosis import explain
from host import (
    CLONE,
    GO_PACKAGE,
    HERE,
    RUN,
    Failure,
    Provider,
    cache,
    elapsed,
    find_go,
    find_provider,
    last_lines,
    missing_packages,
    output,
    podman_packages,
    run_logged,
    say,
    succeeds,
)

NAME = "forebay"
NODE = f"{NAME}-control-plane"
KUBECONFIG = CLONE / ".kube" / "config"
SOCKET = RUN / "podman.sock"
MODULES = Path("/lib/modules")

PUBLIC_KAFKA = "docker.io/apache/kafka:4.1.1"
"""Of manifests/dev; where it can be had, so can PostgreSQL's."""

NEEDED_GIGABYTES = 12


def foreign_kubeconfig() -> Path | None:
    """The KUBECONFIG of somebody else's cluster, which is then used instead of ours."""
    named = os.environ.get("KUBECONFIG")
    return Path(named) if named and Path(named).resolve() != KUBECONFIG else None


def kind(provider: Provider, *arguments: str | Path) -> list[str]:
    """A command line of the pinned kind."""
    setting = (f"{name}={value}" for name, value in provider.environment.items())
    return ["env", *setting, str(build(TOOLS) / "kind"), *map(str, arguments)]


def kubectl(*arguments: str, kubeconfig: Path = KUBECONFIG) -> list[str]:
    """A command line of kubectl: the node image's version, the machine's own, or one compiled for the purpose."""
    return [str(find_kubectl()), "--kubeconfig", str(kubeconfig), *arguments]


def find_kubectl() -> Path:
    """A kubectl, compiled only where there is none."""
    return known_kubectl() or build(KUBECTL) / "kubectl"


def known_kubectl() -> Path | None:
    """A kubectl that is here already."""
    compiled = (module.target / "kubectl" for module in (COMPONENTS[-1], KUBECTL))
    found = shutil.which("kubectl")
    return next((path for path in compiled if path.exists()), Path(found) if found else None)


def clusters(provider: Provider) -> list[str]:
    """The names of kind's clusters on this provider."""
    return output(kind(provider, "get", "clusters")).split()


def up(*, keep: bool = False) -> None:
    """Start the cluster, or verify the one that runs. `keep` leaves a failed one for inspection."""
    kubeconfig = foreign_kubeconfig()
    if kubeconfig:
        verify_foreign(kubeconfig)
        return
    begun = time.monotonic()
    with locked("cluster"):
        provider = prepare()
        if NAME in clusters(provider):
            if answers(provider):
                set_up_podman(provider)
                say_ready("runs already", begun)
                return
            say(f"the cluster {NAME} is there and does not answer: making it anew")
            remove(provider)
        image = choose_node_image(provider)
        drop_sources()
        create(provider, image, keep=keep)
        say_ready("is up", begun)


def verify_foreign(kubeconfig: Path) -> None:
    """Failure when the cluster that KUBECONFIG names does not answer."""
    output(kubectl("get", "--raw", "/readyz", "--request-timeout=10s", kubeconfig=kubeconfig))
    say(f"using the cluster of KUBECONFIG={kubeconfig}; unset KUBECONFIG for a local one")


def prepare(*, node: bool = True) -> Provider:
    """The provider and the tools, after saying what a machine without them is in for."""
    provider = find_provider()
    for line in outlook(provider, node=node):
        say(line)
    if node:
        check_room()
    provider = provider or find_provider(install=True)
    if provider is None:
        raise Failure("neither Docker nor Podman is here")
    build(TOOLS)
    return provider


def outlook(provider: Provider | None, *, node: bool) -> list[str]:
    """What is still to be made before a cluster can start, what it takes and how long; empty when all is there."""
    lines = []
    if provider is None:
        packages = " ".join(missing_packages(podman_packages()))
        lines.append(f"  Podman  installed, which needs root, as no Docker works here: {packages}")
    if not TOOLS.target.exists():
        lines.append(f"  tools   kind, helm, kubeconform: compiled in about {GO_MINUTES['tools']} minutes on 2 cores")
    if node and not (provider and node_image_is_here(provider)):
        lines += [
            "  node    kind's public image, where it can be pulled (asked with a time-out of 20 s); otherwise one is built,",
            "          which needs root on Debian or Ubuntu, a Debian mirror and Go's module proxy",
        ]
        missing = missing_packages(["mmdebstrap", "debian-archive-keyring"])
        lines += [f"          and installs {' '.join(missing)}"] * bool(missing)
        minutes = sum(GO_MINUTES[module.name] for module in COMPONENTS if not module.target.exists())
        compiling = f"about {minutes} minutes of compiling Kubernetes on 2 cores, " if minutes else ""
        lines.append(f"          and takes {compiling}about 3 minutes of packing, {NEEDED_GIGABYTES} GB of disk")
    if lines and not all(module.target.exists() for module in (TOOLS, *COMPONENTS)):
        lines.append(f"  Go      {find_go() or f'fetched as the Python package {GO_PACKAGE}'}")
    return [f"to be made first, and then kept in {cache()}:", *lines] if lines else []


def node_image_is_here(provider: Provider) -> bool:
    """Whether a node can start without anything being pulled or built."""
    return any(images.exists(provider, name) for name in (images.node_recipe().exact, images.PUBLIC_NODE))


def check_room() -> None:
    """Failure before anything long begins on a disk that is too small for it."""
    if all(module.target.exists() for module in COMPONENTS):
        return
    cache().mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache()).free / 1e9
    if free < NEEDED_GIGABYTES:
        wanted = f"a first start needs {NEEDED_GIGABYTES}; FOREBAY_CACHE names another folder"
        raise Failure(f"{cache()} has {free:.0f} GB left, and {wanted}")


def set_up_podman(provider: Provider) -> None:
    """What a cluster on root's Podman needs on the machine; `remove` undoes it."""
    if provider.name == "podman" and os.geteuid() == 0:
        # kind mounts the kernel's modules into a node, and a kernel without modules may have no folder of them.
        MODULES.mkdir(exist_ok=True)
        serve_docker_api(provider)


def choose_node_image(provider: Provider) -> str:
    """FOREBAY_NODE_IMAGE, or the one that is here, or the public one, or one that is built now."""
    wanted = os.environ.get("FOREBAY_NODE_IMAGE")
    if wanted:
        return wanted
    built = images.node_recipe().exact
    if images.exists(provider, built):
        return built
    try:
        return images.pull_public_node(provider)
    except Failure as failure:
        say(f"kind's public node image cannot be had ({str(failure).rpartition(': ')[2]}); building one")
    return ensure_node_image(provider)


def node_image() -> str:
    """Build the node image unless it is there, whether or not the public one could be pulled."""
    name = ensure_node_image(prepare())
    drop_sources()
    return name


def fetch_node_image() -> str:
    """What a start of the cluster takes longest for, ahead of it: the node image, pulled or built."""
    image = choose_node_image(prepare())
    drop_sources()
    return image


def ensure_node_image(provider: Provider) -> str:
    """Build the node image unless it is there."""
    if os.geteuid() != 0:
        raise Failure("building a node image needs root (it installs Debian into a folder)")
    return images.ensure_node(provider)


def create(provider: Provider, image: str, *, keep: bool) -> None:
    """Create the cluster and wait until it is whole; a failed one is explained and removed."""
    set_up_podman(provider)
    configuration = "built" if "forebay-node" in image else "public"
    command = kind(
        provider, "create", "cluster", "--image", image, "--retain", "--wait", "120s",
        "--config", HERE / "kind" / f"{configuration}.yaml", "--kubeconfig", KUBECONFIG,
    )  # fmt: skip
    try:
        run_logged(f"create cluster on the {configuration} node image", command, nice=False)
        wait_until_whole()
    except Failure as failure:
        explanation = explain(provider, NODE)
        abandon(provider, keep=keep)
        if explanation is None:
            raise
        # Of kind's own log the first line, which names the file: the rest is a trace of kubeadm's calls.
        raise Failure(f"{explanation}\n{str(failure).splitlines()[0].rstrip(':')}") from failure
    except KeyboardInterrupt:
        abandon(provider, keep=keep)
        raise


def abandon(provider: Provider, *, keep: bool) -> None:
    """Remove a cluster that did not start, unless somebody wants to look into it."""
    if keep:
        say(f"the failed cluster was kept: {provider.name} exec -it {NODE} bash (with the variables that `env` prints)")
    else:
        remove(provider)


def wait_until_whole() -> None:
    """Wait for the node and for what every pod takes for granted: names, Services, volumes."""
    output(kubectl("wait", "--for=condition=Ready", "node", "--all", "--timeout=60s"))
    for namespace, workload in (
        ("kube-system", "daemonset/kube-proxy"),
        ("kube-system", "deployment/coredns"),
        ("local-path-storage", "deployment/local-path-provisioner"),
    ):
        output(kubectl("-n", namespace, "rollout", "status", workload, "--timeout=90s"))


def answers(provider: Provider) -> bool:
    """Whether the cluster that exists is whole; writes this clone's kubeconfig for it."""
    try:
        export_kubeconfig(provider)
        output(kubectl("get", "--raw", "/readyz", "--request-timeout=10s"))
        wait_until_whole()
    except Failure as failure:
        say(str(failure))
        return False
    return True


def export_kubeconfig(provider: Provider) -> None:
    """Write this clone's kubeconfig for the cluster that runs, which another clone may have started."""
    output(kind(provider, "export", "kubeconfig", "--name", NAME, "--kubeconfig", KUBECONFIG))


def say_ready(how: str, begun: float) -> None:
    """The last line of a start, and on standard output the kubeconfig."""
    version = json.loads(output(kubectl("version", "-o", "json")))["serverVersion"]["gitVersion"]
    took = elapsed(time.monotonic() - begun)
    say(f"cluster {NAME} {how} ({took}): Kubernetes {version}, context kind-{NAME}, kubeconfig")
    print(KUBECONFIG)


def down() -> None:
    """Remove the cluster and everything that it left on the machine; images and binaries stay cached."""
    with locked("cluster"):
        provider = find_provider()
        if provider:
            remove(provider)
    say(f"cluster {NAME} is down; {cache()} keeps its images and programs")


def remove(provider: Provider) -> None:
    """Delete the cluster's containers and volumes, then its traces."""
    if TOOLS.target.exists():
        say(f"  removing cluster {NAME}")
        output(kind(provider, "delete", "cluster", "--name", NAME, "--kubeconfig", KUBECONFIG), timeout=300)
        others = clusters(provider)
        if not others:
            succeeds(provider.command("network", "rm", "kind"), provider.environment)
        if provider.name == "podman" and os.geteuid() == 0 and not others:
            succeeds(provider.command("volume", "prune", "--force"), provider.environment)
            traces.remove_podman(cache() / "podman" / "storage")
            traces.remove_empty(MODULES)
    KUBECONFIG.unlink(missing_ok=True)


def serve_docker_api(provider: Provider) -> None:
    """Podman behind Docker's API on a socket, for the docker command and for skaffold."""
    if socket_answers():
        return
    RUN.mkdir(parents=True, exist_ok=True)
    with (RUN / "podman.log").open("a") as log:
        subprocess.Popen(
            provider.command("system", "service", "--time", "0", f"unix://{SOCKET}"),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=os.environ | provider.environment,
            start_new_session=True,
        )
    deadline = time.monotonic() + 10
    while not socket_answers():
        if time.monotonic() > deadline:
            raise Failure(f"podman system service did not start:\n{last_lines((RUN / 'podman.log').read_text())}")
        time.sleep(0.1)


def socket_answers() -> bool:
    """Whether Podman's service runs."""
    return SOCKET.exists() and succeeds(["podman", "--remote", "--url", f"unix://{SOCKET}", "version"], timeout=5)


def loaded(listing: str, name: str, image_id: str) -> bool:
    """Whether containerd, by what `ctr images ls` prints, has this very image under this name."""
    digests = {reference: digest for reference, _type, digest, *_ in map(str.split, listing.splitlines()[1:])}
    digest = digests.get(name)
    return digest is not None and digest == digests.get(f"sha256:{image_id.removeprefix('sha256:')}")


def load(names: list[str]) -> None:
    """Bring local images into the cluster by `kind load`, those that are not there yet."""
    kubeconfig = foreign_kubeconfig()
    if kubeconfig:
        raise Failure(f"KUBECONFIG={kubeconfig} names a cluster of yours: push the images to a registry that it reads")
    provider = find_provider()
    if provider is None or NAME not in clusters(provider):
        raise Failure("the cluster does not run: make cluster")
    listing = output(provider.command("exec", NODE, "ctr", "-n", "k8s.io", "images", "ls"), provider.environment)
    fresh = []
    for name in names:
        shown = output(provider.command("image", "inspect", name), provider.environment)
        details = json.loads(shown)[0]
        full = next((tag for tag in details["RepoTags"] if tag == name or tag.endswith(f"/{name}")), name)
        if loaded(listing, full, details["Id"]):
            say(f"  {full} is in the cluster already")
        else:
            fresh.append(full)
    if fresh:
        with tempfile.TemporaryDirectory(dir=images.work_folder()) as folder:
            archive = Path(folder) / "images.tar"
            images.save(provider, fresh, archive)
            loading = kind(provider, "load", "image-archive", archive, "--name", NAME)
            run_logged(f"load {' '.join(fresh)}"[:60], loading, nice=False)
        for full in fresh:
            say(f"  {full} is in the cluster")


def surroundings() -> Path:
    """The kustomization of a development Kafka and PostgreSQL that the cluster can start.

    Of public images where they can be pulled; otherwise of stand-ins that are built and loaded here.
    """
    public = CLONE / "manifests" / "dev"
    if foreign_kubeconfig():
        return public
    provider = prepare(node=False)
    stand_ins = [dev_images.KAFKA, dev_images.POSTGRES]
    is_built = all(images.exists(provider, recipe.exact) for recipe in stand_ins)
    if not is_built and images.pullable(provider, PUBLIC_KAFKA):
        return public
    load([images.ensure(provider, recipe) for recipe in stand_ins])
    return CLONE / "manifests" / "dev-local"


def tools() -> Path:
    """A folder with kind, helm, kubeconform, and kubectl once there was a cluster, to be put on the PATH."""
    folder = cache() / "tools"
    folder.mkdir(parents=True, exist_ok=True)
    for program in (*build(TOOLS).iterdir(), *filter(None, [known_kubectl()])):
        link = folder / program.name
        if not link.is_symlink() or link.readlink() != program:
            draft = folder / f".{program.name}.{os.getpid()}"
            draft.symlink_to(program)
            draft.replace(link)
    return folder


def environment() -> dict[str, str]:
    """What programs that talk to the cluster, or build images for it, need in their environment."""
    values = {"KUBECONFIG": str(foreign_kubeconfig() or KUBECONFIG), "KIND_CLUSTER_NAME": NAME}
    provider = find_provider()
    if provider:
        values |= {"FOREBAY_CONTAINERS": provider.name, **provider.environment}
        if provider.name == "podman" and os.geteuid() == 0:
            values |= {"DOCKER_HOST": f"unix://{SOCKET}", "DOCKER_BUILDKIT": "0"}
    return values


def status() -> bool:
    """Say which cluster is used and whether it answers."""
    kubeconfig = foreign_kubeconfig()
    whose = "yours, by KUBECONFIG" if kubeconfig else "local"
    kubeconfig = kubeconfig or KUBECONFIG
    print(f"kubeconfig  {kubeconfig} ({whose})")
    provider = find_provider()
    print(f"containers  {provider.name if provider else 'neither Docker nor Podman works here'}")
    if whose == "local":
        node = provider is not None and images.exists(provider, images.node_recipe().exact)
        print(f"node image  {images.node_recipe().exact} ({'cached' if node else 'not built'})")
        if not (provider and TOOLS.target.exists() and NAME in clusters(provider)):
            print("cluster     down")
            return False
        export_kubeconfig(provider)
    try:
        shown = output(kubectl("get", "nodes", "-o", "wide", "--request-timeout=10s", kubeconfig=kubeconfig))
    except Failure as failure:
        print(f"cluster     does not answer: {failure}")
        return False
    print(f"cluster     up\n{shown.strip()}")
    return True
