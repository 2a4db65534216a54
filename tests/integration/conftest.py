"""What whole runs share: their mark, and a Hub whose processes are forked from one parent, see `helpers.forks`."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.hub_server import HubServer, hub_server


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test of this folder, before `-m` chooses."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker("integration")


@pytest.fixture(scope="session")
def hub() -> Iterator[HubServer]:
    """Each module has repositories of its own."""
    with hub_server() as server:
        yield server


@pytest.fixture(scope="session")
def hub_environment(hub: HubServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of a process that uses the Hub, but for HF_FINETUNE_CACHE."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return others | hub.environment(tmp_path_factory.mktemp("hub_cache"))
