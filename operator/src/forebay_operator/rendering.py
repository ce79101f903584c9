"""What charts/pipeline makes of a Pipeline: `helm template`, remembered by its inputs."""

import asyncio
import hashlib
import json
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from forebay.errors import ForebayError, Refused, TryLater
from forebay.pipeline.spec import Pipeline
from forebay.planning import workloads
from forebay.planning.workloads import Images, PodDefaults

TIMEOUT_S = 60.0
_MOST_REMEMBERED = 1_000

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Renderer:
    """Runs helm, at most two at a time: each takes a core and 60 MB for half a second."""

    def __init__(self, *, helm: str, chart: Path, images: Images, pod_defaults: PodDefaults, kubernetes: str) -> None:
        self._helm = helm
        self._chart = chart
        self._images = images
        self._pod_defaults = pod_defaults
        self._kubernetes = kubernetes
        self._slots = asyncio.Semaphore(2)
        self._known: OrderedDict[str, bytes] = OrderedDict()
        self.fingerprint = _fingerprint(chart)
        """Of the chart: the same inputs give the same result."""

    async def render(self, pipeline: Pipeline) -> list[dict[str, Any]]:
        """The objects; Refused with the chart's own sentences when it will not have the Pipeline."""
        values = workloads.values(pipeline, self._images, self._pod_defaults)
        name, namespace = pipeline.metadata.name, pipeline.metadata.namespace
        encoded = json.dumps([name, namespace, values], sort_keys=True).encode()
        key = hashlib.sha256(encoded).hexdigest()
        if key not in self._known:
            async with self._slots:
                rendered = await self._run(name, namespace, values)
            self._known[key] = json.dumps(rendered).encode()
            while len(self._known) > _MOST_REMEMBERED:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        documents: list[dict[str, Any]] = json.loads(self._known[key])
        return documents

    async def _run(self, name: str, namespace: str, values: dict[str, Any]) -> list[dict[str, Any]]:
        command = [self._helm, "template", name, str(self._chart), "--namespace", namespace, "--values", "-"]
        command += ["--no-hooks", "--skip-tests", "--kube-version", self._kubernetes]
        text = await _output(command, json.dumps(values).encode())
        documents = await asyncio.to_thread(lambda: list(yaml.load_all(text, Loader=_LOADER)))
        return [document for document in documents if document]


async def _output(command: Sequence[str], stdin: bytes) -> bytes:
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"HOME": "/tmp", "HELM_NO_PLUGINS": "1"},  # noqa: S108 - helm writes nothing there, and wants a home
        )
    except OSError as error:
        raise Refused(f"{command[0]} cannot be run: {error}: set FOREBAY_OPERATOR_HELM") from error
    try:
        async with asyncio.timeout(TIMEOUT_S):
            output, complaint = await process.communicate(stdin)
    except BaseException as error:
        process.kill()
        await process.wait()
        if isinstance(error, TimeoutError):
            raise TryLater(f"helm did not render the chart within {TIMEOUT_S:.0f} s: try again") from error
        raise
    if process.returncode:
        raise _refusal(complaint.decode(errors="replace"))
    return output


def _refusal(complaint: str) -> ForebayError:
    text = complaint.strip().removeprefix("Error: ")
    _, mark, sentences = text.partition("the Pipeline contradicts itself:")
    return Refused(" ".join(sentences.split("\n")).strip() if mark else f"the chart cannot be rendered: {text}")


def _fingerprint(chart: Path) -> str:
    state = hashlib.sha256()
    for path in sorted(path for path in chart.rglob("*") if path.is_file()):
        state.update(str(path.relative_to(chart)).encode() + b"\0" + path.read_bytes())
    return state.hexdigest()[:12]
