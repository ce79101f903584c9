"""What a replica is told by its environment; everything else stands in the mounted Pipeline file."""

import os
import re
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from forebay.errors import Refused


class ReplicaSettings(BaseSettings):
    """Environment variables of a service, each with the prefix FOREBAY_."""

    model_config = SettingsConfigDict(env_prefix="FOREBAY_", frozen=True, extra="ignore", use_attribute_docstrings=True)

    pipeline: Path
    """The Pipeline file."""
    stage: str
    """The stage of the Pipeline that this process serves."""
    ordinal: int | None = Field(default=None, ge=0)
    """Which replica of the stage; default: the number at the end of HOSTNAME, as a StatefulSet gives it."""
    bootstrap: str | None = None
    """host:port of brokers that replace spec.kafka, without TLS or login."""
    secrets: Path | None = None
    """Folder with the mounted Secrets: SECRETS/<secret>/<key>."""
    data: Path = Path("/var/lib/forebay")
    """Folder for local state and embedded databases."""
    http_host: str = "0.0.0.0"  # noqa: S104 - a pod's probes and metrics come from outside
    http_port: int = Field(default=8080, ge=0, le=65535)
    """Port for /metrics, /livez and /readyz."""
    http_fd: int | None = None
    """A listening socket handed over by the parent, instead of host and port."""
    log_format: Literal["json", "text"] | None = None
    """Default: text on a terminal, JSON elsewhere."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    exit_when_done: bool = False
    """A bounded source that is done ends its process instead of staying ready."""
    records: int | None = Field(default=None, ge=0)
    """Producers only: stop after so many records of this replica."""
    last_metrics: Path | None = None
    """Leave the metrics in this file at the end: who scrapes now and then would miss the last counts."""
    stuck_after_s: float = Field(default=120.0, ge=1)
    """A loop silent for longer ends its process; the default is twice what the slowest call to Kafka may take."""
    parent_pid: int | None = None
    """End when this process is no longer the parent."""

    @field_validator("ordinal", mode="before")
    @classmethod
    def _from_hostname(cls, value: object) -> object:
        return None if value == "" else value

    @property
    def replica_ordinal(self) -> int:
        """The replica's number; 0 when neither ORDINAL nor HOSTNAME tell."""
        if self.ordinal is not None:
            return self.ordinal
        match = re.search(r"-(\d{1,5})$", os.environ.get("HOSTNAME", ""))
        return int(match.group(1)) if match else 0


def from_environment() -> ReplicaSettings:
    """The settings; Refused names every variable that is missing or wrong at once."""
    try:
        return ReplicaSettings()
    except ValidationError as error:
        problems = "; ".join(
            f"FOREBAY_{'_'.join(str(part) for part in problem['loc']).upper()}: {problem['msg']}"
            for problem in error.errors()
        )
        raise Refused(f"the environment is not complete: {problems}") from error
