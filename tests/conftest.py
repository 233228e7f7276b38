"""What all tests need of the process they run in."""

from __future__ import annotations

import contextlib
import gc
import signal

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "the same each time",
    derandomize=True,
    database=None,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("the same each time")

with contextlib.suppress(ImportError, AttributeError):  # other versions have other insides
    # Examples would be made of the constants of modules, too: of all that tests before them have loaded.
    from hypothesis.internal.conjecture import providers

    _NONE = providers.Constants()
    providers._get_local_constants = lambda: _NONE


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_is_heard() -> None:
    """Shells have the commands that they start in the background ignore Ctrl-C, and so all children."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module", autouse=True)
def _garbage_is_what_tests_make() -> None:
    """Thousands of tests are in memory by now, and many of them look for what they left in it."""
    gc.collect()
    gc.freeze()
