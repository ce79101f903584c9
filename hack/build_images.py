"""Builds the images of the services and of the operator (`make images`), and hands them on.

They are called REGISTRY/forebay-SERVICE:TAG as charts/pipeline expects. With --push they go to their registry, otherwise
into the cluster of `make cluster` where it runs. Where the public base image cannot be pulled, one is made from Debian packages.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "hack/cluster"))

import binaries  # noqa: E402  the path is set above
import dev_images  # noqa: E402
import lifecycle  # noqa: E402
from host import Failure, Provider, output, run_logged, say  # noqa: E402
from images import exists, pullable  # noqa: E402

PUBLIC_BASE = "docker.io/library/python:3.11-slim-bookworm"
VERSION = "0.1.0"
SBOMS = ROOT / "dist/sbom"
MEBIBYTE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Service:
    """One image and what it is built from."""

    name: str
    target: str = "service"
    """Stage of the Dockerfile."""
    arguments: Sequence[str] = ()
    """Build arguments beside SERVICE, where they are not what the Dockerfile derives from it."""
    limit: int | None = None
    """MiB that it may have over its base."""


SERVICES = (
    Service(name="producer"),
    Service(name="processor", limit=120),
    Service(name="sink"),
    Service(name="operator", target="operator", arguments=("PROJECT=operator", "ALSO=cli"), limit=150),
)


@dataclass(frozen=True, kw_only=True)
class Base:
    """What images stand on, and what they are built in."""

    image: str
    build: str


def find_base(provider: Provider, wanted: str | None) -> Base:
    """The named base; else the public one; else one made here."""
    if wanted:
        return Base(image=wanted, build=wanted)
    if exists(provider, PUBLIC_BASE) or pullable(provider, PUBLIC_BASE):
        return Base(image=PUBLIC_BASE, build=PUBLIC_BASE)
    say(f"{PUBLIC_BASE} cannot be pulled; a base of Debian packages takes its place")
    image, tools = dev_images.ensure(provider, ["base", "build"])
    return Base(image=image, build=tools)


def build(provider: Provider, service: Service, base: Base, name: str) -> None:
    """Build one image."""
    arguments = (
        f"BASE={base.image}",
        f"BUILD={base.build}",
        f"SERVICE={service.name}",
        f"VERSION={VERSION}",
        f"REVISION={revision()}",
        *service.arguments,
    )
    command = provider.command(
        "build", "--network", "host", "--file", "services/Dockerfile", "--target", service.target
    )
    if service.target == "operator":
        command += ["--build-context", f"tools={binaries.build(binaries.TOOLS)}"]
    command += ["--tag", name]
    for argument in arguments:
        command += ["--build-arg", argument]
    if provider.name == "podman":
        command += ["--timestamp", "315532800"]  # the same content gives the same image
    run_logged(f"build {name.rpartition('/')[2]}", [*command, "."], environment=provider.environment, folder=ROOT)


def revision() -> str:
    """The commit that the images are made from."""
    return output(["git", "rev-parse", "HEAD"], folder=ROOT).strip()


def size(provider: Provider, image: str) -> int:
    """Bytes of an image with all of its layers."""
    return int(json.loads(output(provider.command("image", "inspect", image), provider.environment))[0]["Size"])


def write_sbom(provider: Provider, service: Service, name: str) -> Path:
    """Let the image list what it holds."""
    target = SBOMS / f"forebay-{service.name}.cdx.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    inside = ("run", "--rm", "--interactive", "--network", "none", "--entrypoint", "python3", name)
    command = provider.command(*inside, "-", f"forebay-{service.name}", VERSION)
    with (ROOT / "hack/sbom.py").open() as script:
        environment = os.environ | provider.environment
        done = subprocess.run(command, stdin=script, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise Failure(f"{name} cannot list what it holds: {done.stderr.strip()}")
    target.write_text(done.stdout)
    return target


def report(provider: Provider, service: Service, base: Base, name: str) -> None:
    """Print the size; Failure when the image outgrew its limit."""
    whole, below = size(provider, name), size(provider, base.image)
    over = (whole - below) / MEBIBYTE
    sbom = write_sbom(provider, service, name).relative_to(ROOT)
    print(f"{name}: {whole / MEBIBYTE:.0f} MiB, {over:.0f} MiB over its base; {sbom}")
    if service.limit is not None and over > service.limit:
        raise Failure(f"{name} has {over:.0f} MiB over its base; at most {service.limit} are allowed")


def arguments() -> argparse.Namespace:
    """What the user asks for."""
    parser = argparse.ArgumentParser(description="Build the images; load them into a kind cluster or push them.")
    parser.add_argument("--registry", default="localhost", help="registry and path of the images' names")
    parser.add_argument("--tag", default=VERSION)
    parser.add_argument(
        "--base", help=f"base image with Python 3.11 or newer; default: {PUBLIC_BASE}, else one made here"
    )
    parser.add_argument("--push", action="store_true", help="push them to the registry, and load them nowhere")
    parser.add_argument(
        "services", nargs="*", metavar="SERVICE", help="producer, processor, sink, operator; default: all"
    )
    return parser.parse_args()


def hand_on(provider: Provider, names: Sequence[str], *, push: bool) -> None:
    """Push the images, or load them into our cluster where there is one."""
    if push:
        for name in names:
            command = provider.command("push", name)
            run_logged(f"push {name.rpartition('/')[2]}", command, environment=provider.environment)
    elif foreign := lifecycle.foreign_kubeconfig():
        say(f"loaded nowhere: KUBECONFIG={foreign} names a cluster of yours; --push them to a registry that it reads")
    elif lifecycle.NAME in lifecycle.clusters(provider):
        lifecycle.load(names)


def main() -> int:
    """Exit code: 1 when something failed."""
    asked = arguments()
    try:
        provider = lifecycle.prepare(node=False)
        base = find_base(provider, asked.base)
        names = []
        for service in SERVICES:
            if not asked.services or service.name in asked.services:
                name = f"{asked.registry}/forebay-{service.name}:{asked.tag}"
                build(provider, service, base, name)
                report(provider, service, base, name)
                names.append(name)
        hand_on(provider, names, push=asked.push)
    except Failure as failure:
        print(f"images: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
