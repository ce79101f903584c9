"""`python -m forebay_cli.embedded_kafka install` fetches Kafka before it is needed; `lock` renews kafka.lock."""

import sys
import tempfile
from pathlib import Path

from forebay_cli.embedded_kafka.errors import EmbeddedKafkaError
from forebay_cli.embedded_kafka.install import LOCK_FILE, ensure_installed, render_lock, resolve_lock


def main(arguments: list[str]) -> int:
    """Do what the one argument says; return the exit code."""
    try:
        match arguments:
            case ["install"]:
                print(ensure_installed(lambda text: print(text, file=sys.stderr)))
            case ["lock"]:
                with tempfile.TemporaryDirectory() as repository:
                    LOCK_FILE.write_text(render_lock(resolve_lock(Path(repository))))
            case _:
                print("usage: python -m forebay_cli.embedded_kafka install|lock", file=sys.stderr)
                return 2
    except EmbeddedKafkaError as error:
        print(f"forebay: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
