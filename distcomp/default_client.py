"""The default client, which decorated functions use: one in a process, or in a task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distcomp import open_clients
from distcomp.client import Client
from distcomp.forking import lock_free_in_children

if TYPE_CHECKING:
    import os

    from distcomp.access import Access

__all__ = ["connect", "default_client"]

_default: Client | None = None
_lock = lock_free_in_children()


def connect(
    address: str | Access | None = None,
    *,
    token: str | None = None,
    journal: str | os.PathLike[str] | None = None,
    project: str | os.PathLike[str] | bool | None = None,
    store: str | os.PathLike[str] | None = None,
) -> Client:
    """Make the default client, which decorated functions use; one made before is left as it is.

    Args:
        address: as for `Client`.
        token: as for `Client`.
        journal: as for `Client`.
        project: as for `Client`.
        store: as for `Client`.

    Returns:
        The client.

    Example:
        >>> connect("inline:").submit(abs, -1).result()
        1
    """
    global _default  # noqa: PLW0603 - there is one default client in a process
    with _lock:
        _default = Client(address, token=token, journal=journal, project=project, store=store)
        return _default


def default_client() -> Client:
    """The client that `connect` made, or one made now, from the surroundings; in each task another one."""
    client: Client | None = open_clients.around.client or _default
    if client is None or client.closed:
        with _lock:
            return connect() if _default is None or _default.closed else _default
    return client
