"""Pages of longer lists: so many items after the last one of the page before."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")

PAGE_ITEMS = 100
"""How many items a page has unless it is asked for otherwise."""


def cut(
    items: Sequence[T], key: Callable[[T], str], limit: int | None, after: str | None
) -> tuple[Sequence[T], dict[str, str]]:
    """One page of items that are sorted by `key`, and what leads to the next one.

    Args:
        items: all of them.
        key: gives each item's place; it is what the next page is asked for by.
        limit: how many to give at most.
        after: the key of the last item before.

    Returns:
        The items, and `{"next": …}`, empty after the last page.

    Example:
        >>> cut(["a", "b", "c"], str, 2, None)
        (['a', 'b'], {'next': 'b'})
    """
    start = 0 if after is None else bisect_right([key(item) for item in items], after)
    page = items[start : start + (limit or PAGE_ITEMS)]
    rest = len(items) - start - len(page)
    return page, {"next": key(page[-1])} if rest > 0 and page else {}
