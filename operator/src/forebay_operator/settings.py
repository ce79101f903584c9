"""What the operator is told by its environment."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from forebay.errors import Refused
from forebay.planning.workloads import Images, PodDefaults


class OperatorSettings(BaseSettings):
    """Environment variables, each with the prefix FOREBAY_OPERATOR_."""

    model_config = SettingsConfigDict(
        env_prefix="FOREBAY_OPERATOR_", frozen=True, extra="ignore", use_attribute_docstrings=True
    )

    namespaces: Annotated[tuple[str, ...], NoDecode] = ()
    """Namespaces to look after, separated by commas; none means the whole cluster."""
    namespace: str = "default"
    """The operator's own namespace, where its Lease and its canary are."""
    identity: str = "forebay"
    """This process among its likes: the pod's name."""
    elect: bool = True
    """Whether to wait for the Lease: of several operators one works."""
    lease: str = "forebay-operator"
    chart: Path = Path("charts/pipeline")
    """The chart of the workloads."""
    helm: str = "helm"
    """The program."""
    images: Images = Images()
    """JSON: the services' images."""
    pod_defaults: PodDefaults = PodDefaults()
    """JSON: what all pods have in common."""
    managed_users: bool = False
    """Whether to make the users of Pipelines that ask for it, which takes the right to write Secrets."""
    http_port: int = Field(default=8080, ge=0, le=65535)
    """Port for /metrics, /livez and /readyz."""
    http_host: str = "0.0.0.0"  # noqa: S104 - a pod's probes and metrics come from outside
    log_format: Literal["json", "text"] | None = None
    """Default: text on a terminal, JSON elsewhere."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    workers: int = Field(default=8, ge=1, le=64)
    """Pipelines that are worked on at the same time."""
    resync_s: float = Field(default=30.0, ge=1)
    """Every Pipeline is looked at this often, whatever was noticed."""
    relist_s: float = Field(default=600.0, ge=1)
    """What watches have told is compared with what there is this often."""
    measure_s: float = Field(default=5.0, ge=0.5)
    """Every stage is looked at this often; sooner where something begins."""

    @field_validator("namespaces", mode="before")
    @classmethod
    def _separated(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("images", "pod_defaults", mode="before")
    @classmethod
    def _decoded(cls, value: Any) -> Any:
        return json.loads(value) if isinstance(value, str) else value


def from_environment() -> OperatorSettings:
    """The settings; Refused names every variable that is wrong at once."""
    try:
        return OperatorSettings()
    except ValidationError as error:
        problems = "; ".join(
            f"FOREBAY_OPERATOR_{str(problem['loc'][0]).upper() if problem['loc'] else '?'}: {problem['msg']}"
            for problem in error.errors(include_input=False)
        )
        raise Refused(f"the environment is wrong: {problems}") from error
