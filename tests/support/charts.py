"""Runs the real helm and kubeconform."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import kubernetes_schemas
import yaml

from forebay_cli.embedded_kafka.install import cache_folder

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts/pipeline"
SENSORS = ROOT / "manifests/samples/01-sensors/values.yaml"
NAMESPACE = "shop"


def tool(name: str) -> str:
    """The program's path: from PATH, or from the cache that `make cluster` fills."""
    cached = (str(path) for path in (cache_folder() / "cluster/bin").glob(f"*/{name}"))
    found = shutil.which(name) or next(cached, None)
    if found is None:
        raise RuntimeError(
            f"{name} is neither on PATH nor in {cache_folder()}/cluster: install it or run `make cluster`"
        )
    return found


@dataclass(frozen=True)
class Rendered:
    """What helm made of a chart and values, or why it refused."""

    returncode: int
    text: str
    complaint: str

    @property
    def objects(self) -> list[dict]:
        return [document for document in yaml.safe_load_all(self.text) if document]

    def of(self, kind: str) -> dict[str, dict]:
        return {found["metadata"]["name"]: found for found in self.objects if found["kind"] == kind}

    def pods(self) -> dict[str, dict]:
        """The pods' specs, by the name of their workload or Job."""
        return {
            found["metadata"]["name"]: found["spec"]["template"]["spec"]
            for found in self.objects
            if found["kind"] in {"StatefulSet", "Deployment", "Job"}
        }


def template(values: dict, *arguments: str, release: str = "sensors", api_versions: tuple[str, ...] = ()) -> Rendered:
    """`helm template` with the values on standard input."""
    apis = [argument for version in api_versions for argument in ("--api-versions", version)]
    command = ["template", release, str(CHART), "--namespace", NAMESPACE, "--values", "-", *apis, *arguments]
    done = helm(*command, "--kube-version", kubernetes_schemas.KUBERNETES, stdin=json.dumps(values))
    return Rendered(done.returncode, done.stdout, done.stderr)


def helm(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess:
    return subprocess.run(
        [tool("helm"), *arguments], input=stdin, capture_output=True, text=True, check=False, cwd=ROOT
    )


def conform(text: str, own_schemas: Path) -> str:
    """What kubeconform -strict finds wrong with the objects; empty when nothing is."""
    ours = kubernetes_schemas.pipelines(own_schemas)
    locations = (
        f"{kubernetes_schemas.folder()}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json",
        f"{ours}/{{{{.ResourceKind}}}}.json",
    )
    command = [tool("kubeconform"), "-strict", "-output", "text"]
    for location in locations:
        command += ["-schema-location", location]
    done = subprocess.run([*command, "-"], input=text, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr
