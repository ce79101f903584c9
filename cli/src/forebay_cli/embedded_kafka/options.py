"""What a caller may choose about the embedded broker."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

GIBIBYTE = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Security:
    """Two secured listeners beside the plain one: SASL_SSL, and SSL with an optional client certificate.

    Users are the same for every SASL mechanism they are listed under. SCRAM users are written when a data folder is
    formatted, so a folder that is used again keeps those it has; PLAIN users are read at every start.
    """

    key_store: Path
    """PEM file: the broker's PKCS#8 private key followed by its certificate, valid for 127.0.0.1."""
    trust_store: Path
    """PEM file: the certificates that may sign client certificates."""
    plain_users: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Name -> password, for PLAIN."""
    scram_users: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Name -> password, for SCRAM-SHA-256 and SCRAM-SHA-512."""
    authorize: bool = False
    """Enforce ACLs. The plain listener stays open to everything, so that ACLs can be administered through it."""
    super_users: tuple[str, ...] = ()
    """Principals beside `User:ANONYMOUS` (the plain listener) that need no ACL, as `User:name`."""
    max_reauth_ms: int = 0
    """How long a SASL connection may live before it must authenticate again; 0 means for ever."""


@dataclass(frozen=True, kw_only=True)
class Membership:
    """The broker's place in a cluster of several, each of them broker and controller, all known from the start.

    A node serves only when the majority of the nodes does: start them side by side, each in a thread of its own.
    """

    cluster_id: str
    """The same for all; `new_cluster_id` makes one."""
    node_id: int
    controller_ports: Mapping[int, int]
    """Node id -> its controller's port on 127.0.0.1, for every node."""


@dataclass(frozen=True, kw_only=True)
class BrokerOptions:
    """How one embedded broker runs; the defaults suit tests and laptops, not benchmarks."""

    port: int | None = None
    """The plain listener's port on 127.0.0.1; None chooses a free one."""
    heap_mebibytes: int = 512
    full_compiler: bool = False
    """Let Java optimise fully: slower to start, faster for long. Benchmarks want it."""
    security: Security | None = None
    membership: Membership | None = None
    """None is a cluster of this one broker."""
    properties: Mapping[str, str] = field(default_factory=dict)
    """Further broker properties; they win over the built-in ones."""
    min_free_disk_bytes: int = GIBIBYTE
    """Refuse to start with less room than this in the folder."""
    start_timeout_seconds: float = 60.0
    """How long the broker may take until it serves."""
