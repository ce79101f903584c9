"""Images made from Debian packages and compiled programs, for machines that cannot pull any.

Every image is tagged with a hash of its recipe and inputs besides its plain tag, so that an image that exists is current.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from artifacts import digest, locked
from binaries import COMPONENTS, KUBERNETES, Module, build
from host import HERE, Provider, cache, install_packages, output, run_logged, succeeds

SUITE = "bookworm"
PUBLIC_NODE = "docker.io/kindest/node@sha256:44e222ee2132dab25ff87301682f89eb82c7880ea3a1bf543bfe9708fd08d67d"
"""Kubernetes 1.34.11, the image of 1.34 that was published for the pinned version of kind."""

PROVISIONER_IMAGE = "localhost/local-path-provisioner:v0.0.30"
BUSYBOX_IMAGE = "localhost/busybox:1.35"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """An image by a Dockerfile in images/NAME, on an image that an earlier recipe makes."""

    name: str
    tag: str
    parent: "Recipe | None" = None
    parent_argument: str = "DEBIAN"
    inputs: Sequence[str | Path] = ()
    """What goes into it besides its folder."""
    arguments: Mapping[str, str] = field(default_factory=dict)
    extras: Callable[[], Mapping[str, Path]] = dict
    """Files and folders that the Dockerfile expects beside itself, found or made when it is built."""

    @property
    def source(self) -> Path:
        """The folder of its Dockerfile."""
        return HERE / "images" / self.name

    @property
    def image(self) -> str:
        """The name by which manifests and Dockerfiles use it."""
        return f"localhost/forebay-{self.name}:{self.tag}"

    @property
    def exact(self) -> str:
        """The name that changes with its inputs."""
        return f"localhost/forebay-{self.name}:{self.digest}"

    @property
    def digest(self) -> str:
        """A hash over the recipe, its inputs and its ancestors."""
        ancestors = [self.parent.digest] if self.parent else [" ".join(debian_command("-"))]
        own = [self.source] if self.source.is_dir() else []
        return digest([*ancestors, *own, *self.inputs, *(f"{k}={v}" for k, v in self.arguments.items())])


def debian_command(target: str) -> list[str]:
    """The smallest Debian that can install packages, without manuals; FOREBAY_DEBIAN_MIRROR names another mirror."""
    dpkg = ["force-unsafe-io", "path-exclude=/usr/share/man/*", "path-exclude=/usr/share/locale/*"]
    dpkg += ["path-exclude=/usr/share/doc/*", "path-include=/usr/share/doc/*/copyright"]
    options = [f"--dpkgopt={option}" for option in dpkg]
    options.append('--aptopt=APT::Install-Recommends "false"')
    mirror = os.environ.get("FOREBAY_DEBIAN_MIRROR")
    return ["mmdebstrap", "--variant=minbase", *options, SUITE, target, *([mirror] if mirror else [])]


DEBIAN = Recipe(name="debian", tag=SUITE)
BASE = Recipe(name="base", tag=SUITE, parent=DEBIAN)
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
"""Package downloads inside a build go through whatever this machine trusts."""


def certificates() -> Mapping[str, Path]:
    """The machine's own, for the build image."""
    install_packages(["ca-certificates"] if not CERTIFICATES.is_file() else [])
    return {"certificates.pem": CERTIFICATES}


BUILD = Recipe(
    name="build",
    tag=SUITE,
    parent=BASE,
    parent_argument="BASE",
    inputs=[CERTIFICATES] if CERTIFICATES.is_file() else [],
    extras=certificates,
)


def exists(provider: Provider, image: str) -> bool:
    """Whether the image is on this machine."""
    return succeeds(provider.command("image", "inspect", image), provider.environment)


def ensure(provider: Provider, recipe: Recipe) -> str:
    """Make the image, and those below it, unless it is there; give it its plain tag; return that."""
    with locked(f"image-{recipe.name}"):
        if not exists(provider, recipe.exact):
            if recipe.parent is None:
                make_debian(provider, recipe)
            else:
                ensure(provider, recipe.parent)
                with staged(recipe) as context:
                    make_image(provider, recipe, context)
        output(provider.command("tag", recipe.exact, recipe.image), provider.environment)
    return recipe.image


def make_debian(provider: Provider, recipe: Recipe) -> None:
    """The one image that is made from nothing."""
    install_packages(["mmdebstrap", "debian-archive-keyring"])
    with tempfile.TemporaryDirectory(dir=work_folder()) as folder:
        archive = str(Path(folder) / "debian.tar")
        run_logged("collect a minimal Debian", debian_command(archive))
        run_logged("import it", provider.command("import", archive, recipe.exact), environment=provider.environment)


def make_image(provider: Provider, recipe: Recipe, context: Path, *, target: str = "", name: str = "") -> None:
    """Build one Dockerfile, or one target of it. Packages come over the machine's own network."""
    assert recipe.parent  # noqa: S101
    arguments = {recipe.parent_argument: recipe.parent.exact, **recipe.arguments}
    command = provider.command("build", "--network", "host", "--tag", name or recipe.exact)
    if target:
        command += ["--target", target]
    for key, value in arguments.items():
        command += ["--build-arg", f"{key}={value}"]
    title = f"build image {recipe.name} {target}".strip()
    run_logged(title, [*command, str(context)], environment={**provider.environment, "DOCKER_BUILDKIT": "0"})


@contextmanager
def staged(recipe: Recipe) -> Iterator[Path]:
    """A build context: the recipe's folder and its file inputs beside it."""
    with tempfile.TemporaryDirectory(dir=work_folder()) as folder:
        context = Path(folder) / "context"
        shutil.copytree(recipe.source, context)
        for name, path in recipe.extras().items():
            if path.is_dir():
                shutil.copytree(path, context / name)
            else:
                shutil.copy2(path, context / name)
        yield context


def work_folder() -> Path:
    """Where big temporary files go: /tmp may be small, or in memory."""
    folder = cache() / "work"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def component_targets(listed: Sequence[str]) -> dict[str, str]:
    """The target of images/components/Dockerfile for each image that kubeadm wants, e.g. etcd for .../etcd:3.6.5-0."""
    targets = {image: image.rpartition("/")[2].partition(":")[0] for image in listed}
    return {**targets, PROVISIONER_IMAGE: "local-path-provisioner", BUSYBOX_IMAGE: "busybox"}


def node_recipe() -> Recipe:
    """The node image; its inputs are the sources of all that is compiled into it."""
    inputs: list[str | Path] = [HERE / "images" / "components"]
    inputs += [module.target.name for module in COMPONENTS]
    return Recipe(
        name="node",
        tag=f"v{KUBERNETES}",
        parent=DEBIAN,
        inputs=inputs,
        arguments={"KUBERNETES_VERSION": f"v{KUBERNETES}"},
    )


def ensure_node(provider: Provider) -> str:
    """The node image, made now if it never was."""
    recipe = node_recipe()
    with locked("node"):
        if not exists(provider, recipe.exact):
            binaries = gather([*COMPONENTS])
            ensure(provider, DEBIAN)
            with tempfile.TemporaryDirectory(dir=work_folder()) as folder, staged(recipe) as context:
                archive = make_components(provider, binaries, Path(folder))
                (context / "images").mkdir()
                shutil.move(archive, context / "images" / "components.tar")
                (context / "bin").mkdir()
                for name in ("kubeadm", "kubelet", "kubectl"):
                    shutil.copy2(binaries[name], context / "bin" / name)
                make_image(provider, recipe, context)
    return recipe.exact


def gather(modules: Sequence[Module]) -> dict[str, Path]:
    """The compiled programs by name; etcd's module calls its program server."""
    programs = {path.name: path for module in modules for path in build(module).iterdir()}
    programs["etcd"] = programs.pop("server")
    return programs


def make_components(provider: Provider, binaries: Mapping[str, Path], folder: Path) -> Path:
    """One archive with the images of the control plane under the names by which kubeadm asks for them."""
    kubeadm = [str(binaries["kubeadm"]), "config", "images", "list", "--kubernetes-version", f"v{KUBERNETES}"]
    targets = component_targets(output(kubeadm).split())
    recipe = Recipe(name="components", tag="none", parent=DEBIAN)
    for image, target in targets.items():
        context = folder / target
        context.mkdir()
        shutil.copy2(recipe.source / "Dockerfile", context)
        if target in binaries:
            shutil.copy2(binaries[target], context / target)
        make_image(provider, recipe, context, target=target, name=image)
        shutil.rmtree(context)
    archive = folder / "components.tar"
    save(provider, list(targets), archive)
    output(provider.command("rmi", *targets), provider.environment)
    return archive


def save(provider: Provider, images: Sequence[str], archive: Path) -> None:
    """Write images into one archive, as `docker save` does."""
    several = ["--multi-image-archive"] if provider.name == "podman" else []
    output(provider.command("save", *several, "-o", archive, *images), provider.environment, timeout=600)


def pullable(provider: Provider, image: str) -> bool:
    """Whether a registry offers the image, asked with a short time-out."""
    return succeeds(provider.command("manifest", "inspect", image), provider.environment, timeout=20)


def pull_public_node(provider: Provider) -> str:
    """Pull kind's public node image; Failure says why it cannot be had."""
    if not exists(provider, PUBLIC_NODE):
        # A registry out of reach is noticed by a question with a short time-out, not by the long pull.
        output(provider.command("manifest", "inspect", PUBLIC_NODE), provider.environment, timeout=20)
        run_logged("pull kind's node image", provider.command("pull", PUBLIC_NODE), environment=provider.environment)
    return PUBLIC_NODE
