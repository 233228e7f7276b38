"""What a supervisor, its template and its slot processes say to each other.

Supervisor and slot speak frames of messages, like programs do, over a socket pair of their own. The
template, which only forks and signals, is spoken to in orders of a fixed layout: it must stay small.
"""

from __future__ import annotations

import signal
import struct
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from distcomp.protocol import (  # noqa: TC001 - the codec reads annotations at run time
    Blob,
    Count,
    Failures,
    Function,
    Runs,
    Seconds,
    Switch,
    Words,
)
from distcomp.wire import MAX_BLOB_BYTES, MAX_FRAME_BYTES, Codec

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_SLOT_FRAME_BYTES = MAX_BLOB_BYTES + MAX_FRAME_BYTES
"""Payloads travel whole between supervisor and slot: there is nobody else to be delayed."""

codec = Codec(MAX_SLOT_FRAME_BYTES)
T = TypeVar("T", bound=type[Any])

STACKS_SIGNAL: int = getattr(signal, "SIGRTMAX", signal.SIGUSR2)
"""Makes a slot write its Python stacks to its stacks file, even while C code holds the GIL."""

INTERRUPT_SIGNAL: int = getattr(signal, "SIGRTMAX", signal.SIGUSR1 + 1) - 1
"""Makes a slot raise in the task that the page names. Real-time signals, because tasks rarely use them."""


def _message(tag: int) -> Callable[[T], T]:
    def register(record: T) -> T:
        codec.register(tag, record)
        return record

    return register


# --- supervisor to slot ---------------------------------------------------------------------------


@_message(1)
class PrepareSlot(NamedTuple):
    """Take over the environment of the session that this process belongs to from now on."""

    environment: Blob
    max_payload_bytes: Count


@_message(2)
class LoadFunction(NamedTuple):
    """The bytes behind a function id, before the first run of it."""

    function: Function
    blob: Blob


@_message(3)
class ForgetFunction(NamedTuple):
    """No run of this function follows, unless it is sent again."""

    function: Function


@_message(4)
class RunTasks(NamedTuple):
    """Run the indexes `start` to `stop`, whose arguments lie in a chunk that begins at `chunk_start`."""

    run: Count
    function: Function
    start: Count
    stop: Count
    chunk_start: Count
    chunk: Blob
    eager: Switch


# --- slot to supervisor ---------------------------------------------------------------------------


@_message(10)
class SlotReady(NamedTuple):
    """The environment is taken over, or there is a `problem` with it."""

    problem: Words


@_message(11)
class RunProgressed(NamedTuple):
    """Outcomes of a run: results and failures by index, and the seconds since the last report.

    All below `reached` is reported. With `ended`, the slot has left the run: nothing from `reached` on
    was run, or will be.
    """

    run: Count
    runs: Runs
    failures: Failures
    busy_s: Seconds
    reached: Count
    ended: Switch


# --- supervisor and template ----------------------------------------------------------------------

ORDER = struct.Struct("=cqi")
"""To the template: what, for which slot process, and a signal number."""

FORK = b"F"
"""Fork a slot process. Its socket, page, output pipe and stacks file come along as descriptors."""

SIGNAL = b"S"
"""Send the signal to the slot process alone."""

SIGNAL_GROUP = b"G"
"""Send the signal to the slot process and what its tasks started."""

NEWS = struct.Struct("=cqi")
"""From the template: what, of which slot process, and a number."""

FORKED = b"P"
"""The slot process runs; the number is its process id."""

ENDED = b"X"
"""The slot process and its group are gone; the number is its exit code, negative for a signal."""

UNFORKED = b"N"
"""The slot process could not be made; the number is the system's error number."""
