"""Writes the image's software bill of materials as CycloneDX 1.6: Debian packages and Python distributions.

It runs inside the image, with its Python alone: `docker run -i --entrypoint python3 IMAGE - NAME VERSION <hack/sbom.py`.
"""

import json
import re
import sys
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path
from typing import Any
from urllib.parse import quote

DPKG = Path("/var/lib/dpkg/status")


def debian_packages(status: str) -> Iterator[dict[str, Any]]:
    """The packages that dpkg knows as installed."""
    for paragraph in status.split("\n\n"):
        fields = dict(re.findall(r"^([A-Z][A-Za-z-]*): (.*)$", paragraph, re.MULTILINE))
        if fields.get("Status") == "install ok installed":
            name, version = fields["Package"], fields["Version"]
            purl = f"pkg:deb/debian/{quote(name)}@{quote(version)}?arch={fields['Architecture']}"
            yield {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def python_distributions() -> Iterator[dict[str, Any]]:
    """The distributions that the image's Python can import."""
    for found in distributions():
        name = re.sub(r"[-_.]+", "-", found.metadata["Name"]).lower()
        purl = f"pkg:pypi/{name}@{quote(found.version)}"
        component = {"type": "library", "bom-ref": purl, "name": name, "version": found.version, "purl": purl}
        expression = found.metadata.get("License-Expression")
        yield component | ({"licenses": [{"expression": expression}]} if expression else {})


def bill(name: str, version: str) -> dict[str, Any]:
    """The whole document; the same for the same image."""
    status = DPKG.read_text() if DPKG.is_file() else ""
    found = {component["bom-ref"]: component for component in (*debian_packages(status), *python_distributions())}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "container", "name": name, "version": version}},
        "components": [found[ref] for ref in sorted(found)],
    }


if __name__ == "__main__":
    json.dump(bill(*sys.argv[1:]), sys.stdout, indent=1)
    print()
