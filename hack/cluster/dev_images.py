"""Stand-ins for public images where none can be pulled: Python bases for our own images, Kafka and PostgreSQL to develop on."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from host import CLONE, Failure, Provider, output
from images import BASE, BUILD, Recipe
from images import ensure as ensure_image

KAFKA_PYTHON = CLONE / ".venv" / "bin" / "python"
KAFKA_LOCK = CLONE / "cli" / "src" / "forebay_cli" / "embedded_kafka" / "kafka.lock"


def kafka_jars() -> Mapping[str, Path]:
    """The folder of Kafka's jars in the cache of `forebay run`."""
    if not KAFKA_PYTHON.exists():
        raise Failure(f"Kafka's jars come with the virtual environment, which is missing: {KAFKA_PYTHON}")
    install = [str(KAFKA_PYTHON), "-m", "forebay_cli.embedded_kafka", "install"]
    return {"libs": Path(output(install, timeout=600).split()[-1])}


KAFKA = Recipe(name="kafka", tag="4.1.1", parent=BASE, parent_argument="BASE", inputs=[KAFKA_LOCK], extras=kafka_jars)
"""The folders and commands of the public apache/kafka image, with the jars that `forebay run` uses."""
POSTGRES = Recipe(name="postgres", tag="15", parent=BASE, parent_argument="BASE")
"""The volume, user and variables of the public postgres image."""

NAMES = {"base": BASE, "build": BUILD, "kafka": KAFKA, "postgres": POSTGRES}


def ensure(provider: Provider, names: Sequence[str]) -> list[str]:
    """Build the named stand-ins, or all."""
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise Failure(f"no such image: {' '.join(unknown)}; there are {', '.join(NAMES)}")
    return [ensure_image(provider, NAMES[name]) for name in names or NAMES]
