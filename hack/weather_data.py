"""Fetch the data of the weather sample: two files of the Python package vega-datasets, unchanged.

    python hack/weather_data.py

pip fetches the package into a temporary folder; nothing of it is imported.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

REQUIREMENT = "vega-datasets==0.9.0"
FILES = ("seattle-temps.csv", "sf-temps.csv")
DATA = Path(__file__).resolve().parent.parent / "manifests" / "samples" / "02-weather" / "data"


def main() -> None:
    """Replace the sample's data."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, REQUIREMENT],
            check=True,
        )
        DATA.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            shutil.copyfile(Path(folder) / "vega_datasets" / "_data" / name, DATA / name)
            print(DATA / name)


if __name__ == "__main__":
    main()
