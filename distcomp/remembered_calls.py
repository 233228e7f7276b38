"""Calls kept so that they can be made again in this process: what `Future.replay` runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from distcomp.payload import load_function, open_chunk

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType


class RememberedCall(NamedTuple):
    """One call as it was sent: the function's bytes, and the chunk that has its arguments at `place`."""

    function: bytes
    chunk: bytes
    place: int

    def replay(self, debugger: Callable[[TracebackType], object] | None) -> Any:
        """Make the call here; an exception is shown to the debugger, then raised."""
        function = load_function(self.function).function
        ((args, kwargs),) = open_chunk(self.chunk).calls(self.place, self.place + 1)
        try:
            return function(*args, **kwargs)
        except Exception as error:
            trace = error.__traceback__
            assert trace is not None  # noqa: S101 - it was raised just now
            (debugger or _post_mortem)(trace.tb_next or trace)  # the first frame is this one
            raise


def _post_mortem(trace: TracebackType) -> None:
    from pdb import post_mortem  # noqa: PLC0415 - it takes its time to load, and is for debugging

    post_mortem(trace)
