"""Values that nobody can change or tell apart from a copy, so that they may share pickles."""

from __future__ import annotations

import pickle
from typing import Any

PLAIN_TYPES = frozenset({int, float, bool, str, bytes, type(None)})


def dump_plain(value: Any) -> bytes:
    """Pickle what holds only plain values and containers of ours."""
    return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
