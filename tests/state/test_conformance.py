"""The stores that come with flujo do what `StateBackend` promises."""

from pathlib import Path

import pytest

from flujo import InMemoryBackend, SQLiteBackend
from flujo.state.backend import Durability, StateBackend
from flujo.testing.budget_conformance import BudgetStoreConformance
from flujo.testing.conformance import StateBackendConformance


class TestInMemoryBackend(StateBackendConformance, BudgetStoreConformance):
    """A store in memory."""

    def new_store(self, *, lease_s: float) -> InMemoryBackend:
        return InMemoryBackend(lease_s=lease_s)

    def reopened(self, store: StateBackend, *, lease_s: float) -> InMemoryBackend:
        assert isinstance(store, InMemoryBackend)
        store.lease_s = lease_s
        return store


@pytest.mark.parametrize("durability", ["full", "fast", "exit"])
class TestSQLiteBackend(StateBackendConformance, BudgetStoreConformance):
    """A store in a file, opened twice where a test asks for two."""

    folder: Path
    durability: Durability
    count: int

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path, durability: Durability) -> None:
        self.folder, self.durability, self.count = tmp_path, durability, 0

    def new_store(self, *, lease_s: float) -> SQLiteBackend:
        self.count += 1
        return SQLiteBackend(self.folder / f"{self.count}.db", durability=self.durability, lease_s=lease_s)

    def reopened(self, store: StateBackend, *, lease_s: float) -> SQLiteBackend:
        assert isinstance(store, SQLiteBackend)
        return SQLiteBackend(store.path, durability=self.durability, lease_s=lease_s)
