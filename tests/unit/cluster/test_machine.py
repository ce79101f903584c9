import tomllib
from string import Template

import pytest
from host import HERE, lacks_capabilities, last_lines, parse_go_version


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("go version go1.26.8 linux/amd64", (1, 26)),
        ("go version go1.9 linux/amd64", (1, 9)),
        ("go version devel go1.27-abc linux/amd64", (0, 0)),
        ("", (0, 0)),
    ],
)
def test_a_toolchain_is_known_by_what_it_says(text, version):
    assert parse_go_version(text) == version


def test_docker_is_passed_over_where_a_capability_is_missing():
    assert not lacks_capabilities("Name:\tx\nCapBnd:\t000001ffffffffff\n", 40)
    assert lacks_capabilities("Name:\tx\nCapBnd:\t000001fffeffffff\n", 40)


@pytest.mark.parametrize("name", ["containers.conf", "storage.conf"])
def test_podmans_templates_become_toml(name):
    text = Template((HERE / "podman" / name).read_text()).substitute(run="/run/x", cache="/c", nofile="10", nproc="20")

    assert tomllib.loads(text)


def test_a_failure_shows_the_end_of_a_log():
    assert last_lines("1\n2\n3", count=2) == "    2\n    3"
