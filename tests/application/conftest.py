"""What the tests of durable runs share."""

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from flujo import InMemoryBackend, SQLiteBackend
from flujo.state.backend import StateBackend


@pytest.fixture(params=["memory", "sqlite"])
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[StateBackend]:
    """Give a store of each kind."""
    store: Any = InMemoryBackend() if request.param == "memory" else SQLiteBackend(tmp_path / "runs.db")
    yield store
    await store.close()
