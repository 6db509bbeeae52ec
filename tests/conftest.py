"""The shared real data, for tests of every room."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def shared_data() -> Callable[[str], Path]:
    """Path of real data in ../shared/data; skips where that is absent."""
    root = Path(__file__).resolve().parents[2] / "shared" / "data"

    def find(name: str) -> Path:
        if not (root / name).exists():
            pytest.skip(f"needs ../shared/data/{name}")
        return root / name

    return find
