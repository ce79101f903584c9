"""The sensors sample's values, and a folder for schemas."""

import copy
from pathlib import Path

import pytest
import yaml

import charts


@pytest.fixture
def values() -> dict:
    """Values to change at will."""
    return copy.deepcopy(yaml.safe_load(charts.SENSORS.read_text()) | {"topics": {"job": False}})


@pytest.fixture(scope="session")
def own_schemas(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("schemas")
