"""Writes the files that are generated from the models (`make generate`); `--check` fails when one is stale."""

import sys
from pathlib import Path

from forebay.pipeline import schema
from forebay.planning import workloads

ROOT = Path(__file__).resolve().parent.parent
HEADER = "# Generated from src/forebay/pipeline/spec.py by `make generate`: do not edit.\n"

GENERATED = {
    ROOT / "manifests/crd/pipelines.forebay.dev.yaml": lambda: HEADER + schema.crd_yaml(),
    ROOT / "charts/operator/files/pipelines.forebay.dev.yaml": lambda: HEADER + schema.crd_yaml(),
    ROOT / "charts/pipeline/values.schema.json": workloads.values_schema,
}
"""What makes each file, by its path."""


def stale() -> list[Path]:
    """The files whose content is not what would be generated now."""
    return [path for path, make in GENERATED.items() if not path.is_file() or path.read_text() != make()]


def main() -> int:
    """Exit code: 1 when a file was stale and --check was given."""
    changed = stale()
    if "--check" in sys.argv[1:]:
        for path in changed:
            print(f"{path.relative_to(ROOT)} is stale: run `make generate` and commit the result", file=sys.stderr)
        return 1 if changed else 0
    for path in changed:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(GENERATED[path]())
        print(f"wrote {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
