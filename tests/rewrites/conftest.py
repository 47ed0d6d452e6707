"""What all tests of rewrites have in common."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rewrites.small_heads import distillation


@pytest.fixture(scope="package", autouse=True)
def _short_distillation() -> Iterator[None]:
    """Most tests are not about how good a distilled head is: a tenth of a second will do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distillation, "_STEPS", (50, 200))
        patch.setattr(distillation, "_POOL", (1000, 4000))
        yield
