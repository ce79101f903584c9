#!/usr/bin/env python3
"""The local Kubernetes cluster: kind on Docker or Podman, also where no container registry can be reached.

Needs nothing but Python: what is missing is installed or built, and said before it begins.
"""

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence

import dev_images
import images
import lifecycle
from host import Failure, find_provider, say


def parser() -> argparse.ArgumentParser:
    """The verbs; each carries what it does, which returns an exit code or nothing."""
    top = argparse.ArgumentParser(
        prog="cluster.py", description="The local Kubernetes cluster: kind on Docker or Podman."
    )
    verbs = top.add_subparsers(required=True, metavar="VERB")

    def verb(name: str, text: str, do: Callable[[argparse.Namespace], int | None]) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=text, description=text)
        added.set_defaults(do=do)
        return added

    start = verb(
        "up",
        "start the cluster, or verify the one that runs; prints its kubeconfig",
        lambda a: lifecycle.up(keep=a.keep),
    )
    start.add_argument("--keep", action="store_true", help="leave a cluster that fails to start for inspection")
    verb("down", "remove the cluster and all its traces; the cache stays", lambda _: lifecycle.down())
    verb("status", "which cluster is used, and whether it answers", lambda _: 0 if lifecycle.status() else 1)
    verb("node-image", "build the node image; prints its name", lambda _: print(lifecycle.node_image()))
    verb("fetch", "pull or build the node image, ahead of `up`", lambda _: print(lifecycle.fetch_node_image()))
    verb(
        "surroundings",
        "make a development Kafka and PostgreSQL startable; prints the folder for kubectl apply -k",
        lambda _: print(lifecycle.surroundings()),
    )
    verb("env", "print what docker, podman, kind, kubectl and skaffold need", lambda _: print_environment())
    verb("tools", "print a folder with kind, helm, kubeconform, kubectl", lambda _: print(lifecycle.tools()))
    loading = verb("load", "bring local images into the cluster", lambda a: lifecycle.load(a.images))
    loading.add_argument("images", nargs="+", metavar="IMAGE")
    asking = verb("pullable", "whether an image can be pulled (exit code)", lambda a: ask_registry(a.image))
    asking.add_argument("image", metavar="IMAGE")
    local = verb(
        "images", "build local stand-ins for public images; prints their names", lambda a: build_images(a.names)
    )
    local.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(dev_images.NAMES)}; all without one")
    return top


def print_environment() -> None:
    """As a shell reads it."""
    for name, value in lifecycle.environment().items():
        print(f"export {name}={shlex.quote(value)}")


def ask_registry(image: str) -> int:
    """Exit code 0 when the image can be pulled."""
    provider = find_provider()
    return 0 if provider and images.pullable(provider, image) else 1


def build_images(names: Sequence[str]) -> None:
    """Print the name of each stand-in, once it is there."""
    for name in dev_images.ensure(lifecycle.prepare(node=False), names):
        print(name)


def main(arguments: Sequence[str]) -> int:
    """Exit code: 0 done, 1 failed, 2 wrong usage (by argparse)."""
    try:
        parsed = parser().parse_args(arguments)
        return parsed.do(parsed) or 0
    except Failure as failure:
        say(f"cluster: {failure}")
        return 1
    except KeyboardInterrupt:
        say("cluster: interrupted")
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
