"""What the tests of the service share: a detector, a photo, running services."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from served import Running, png

import boxatlas
from boxatlas import scenes
from boxatlas.parts.base import Detector
from boxatlas.serve.app import Limits


@pytest.fixture(scope="session")
def detector() -> Detector:
    return boxatlas.load("bundled")


@pytest.fixture(scope="session")
def photo() -> bytes:
    """A photograph that a package carries, of a person."""
    from boxatlas.photos import photos

    return next(one.path.read_bytes() for one in photos() if "Hopper" in one.title)


@pytest.fixture(scope="session")
def drawing() -> bytes:
    return png(scenes.make(0).image)


@pytest.fixture(scope="session")
def running(detector: Detector) -> Iterator[Running]:
    """Two names of one detector, the second with a threshold of suppression of its own."""
    import copy

    other = copy.deepcopy(detector)
    service = Running({"bundled": detector, "other": other}, Limits(megabytes=2.0), None)
    yield service
    service.stop()


@pytest.fixture
def make_running() -> Iterator[object]:
    """Starts services that end with the test."""
    made: list[Running] = []

    def start(detectors: dict[str, Detector], limits: Limits, token: str | None) -> Running:
        made.append(Running(detectors, limits, token))
        return made[-1]

    yield start
    for one in made:
        one.stop()
