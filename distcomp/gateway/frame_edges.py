"""Where frames end in a stream of bytes, without a look into them."""

from __future__ import annotations

from distcomp.errors import FrameTooLargeError
from distcomp.wire import MAX_FRAME_BYTES

_LENGTH_BYTES = 4


class FrameEdges:
    """Follows a stream of length-prefixed frames.

    Args:
        max_frame_bytes: a frame that announces more ends the stream.
    """

    def __init__(self, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self._max_frame_bytes = max_frame_bytes
        self._head = b""
        self._left = 0

    @property
    def at_edge(self) -> bool:
        """Whether all that was fed ends with a whole frame."""
        return not self._left and not self._head

    def feed(self, data: bytes) -> int:
        """Go on by some bytes; returns the position in them behind the last whole frame, or -1.

        Raises:
            FrameTooLargeError: a frame announces too much; nothing can follow.
        """
        position, size, edge = 0, len(data), -1
        while position < size:
            if self._left:
                step = min(self._left, size - position)
                self._left -= step
                position += step
            else:
                step = min(_LENGTH_BYTES - len(self._head), size - position)
                self._head += data[position : position + step]
                position += step
                if len(self._head) < _LENGTH_BYTES:
                    break
                self._left = int.from_bytes(self._head, "big")
                self._head = b""
                if self._left > self._max_frame_bytes:
                    raise FrameTooLargeError(
                        f"a frame of {self._left} bytes; the limit is {self._max_frame_bytes}"
                    )
            if not self._left:
                edge = position
        return edge
