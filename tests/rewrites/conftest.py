"""What all tests of rewrites have in common."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rewrites.small_heads import distillation, transfer_set


@pytest.fixture(scope="package", autouse=True)
def _short_distillation() -> Iterator[None]:
    """Most tests are not about how good a distilled head is: a tenth of a second will do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distillation, "_STEPS", (50, 150, 150))
        patch.setattr(transfer_set, "_POOL", (1000, 1000))
        yield
