"""Why a function's tasks are computed again, in words: what has changed since the store last met it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from distcomp.store_rows import StoredFunction

MOST_NAMED = 3


def reason_for(
    function: StoredFunction,
    earlier: Sequence[StoredFunction],
    *,
    has_failed: bool = False,
    is_open: bool = False,
) -> str:
    """Say why tasks of a function are computed.

    Args:
        function: as it is now.
        earlier: what the store knows under its name, the latest used first.
        has_failed: whether one of the tasks has failed before.
        is_open: whether one was handed in before and has not ended.

    Returns:
        `recomputed because …`; empty if there is nothing to say.

    Example:
        >>> from distcomp.store_rows import StoredFunction
        >>> was = StoredFunction("fit", b"1", "", {"code of helper": b"1"})
        >>> now = StoredFunction("fit", b"2", "", {"code of helper": b"2"})
        >>> reason_for(now, [was])
        'recomputed because the code of helper changed'
    """
    if not earlier or is_open:
        return ""
    same = any(was.digest == function.digest and was.version == function.version for was in earlier)
    if has_failed:
        what = "it failed before"
    elif same:
        what = "arguments changed"
    elif earlier[0].version != function.version:
        what = f"version went from {_said(earlier[0].version)} to {_said(function.version)}"
    else:
        what = _changed_code(function.parts, earlier[0].parts)
    return f"recomputed because {what}"


def _changed_code(parts: Mapping[str, bytes], were: Mapping[str, bytes]) -> str:
    """What of a function and of the code it reaches is not as it was."""
    changed = sorted(name for name, digest in parts.items() if were.get(name, digest) != digest)
    if changed:
        more = f" and {len(changed) - MOST_NAMED} more" if len(changed) > MOST_NAMED else ""
        return f"the {', the '.join(changed[:MOST_NAMED])}{more} changed"
    other = sorted(parts.keys() ^ were.keys())
    return f"it reaches other code (the {other[0]})" if other else "its code changed"


def _said(version: str) -> str:
    return version or "none"
