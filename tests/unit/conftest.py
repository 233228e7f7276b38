"""What all unit tests have: nobody's user folder, and no variables of whoever runs them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _nobody_is_at_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a user has set, or a program has left behind in the user's folder, changes no test."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("DISTCOMP_")]:
            patch.delenv(name)
        patch.setenv("DISTCOMP_HOME", str(tmp_path_factory.getbasetemp() / "nobody"))
        yield
