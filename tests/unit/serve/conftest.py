"""Services to ask."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from service_stand_ins import Running, Start, services


@pytest.fixture
def start() -> Iterator[Start]:
    """Return a function that starts a service and waits until it is ready."""
    with services() as run:
        yield run


@pytest.fixture(scope="module")
def shared_service() -> Iterator[Running]:
    """One service for tests that leave no trace in it."""
    with services() as run:
        yield run()


@pytest.fixture
def service(start: Start) -> Running:
    """A service with the usual limits."""
    return start()
