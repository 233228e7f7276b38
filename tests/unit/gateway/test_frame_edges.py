from __future__ import annotations

import random

import pytest

from distcomp.errors import FrameTooLargeError
from distcomp.gateway.frame_edges import FrameEdges


def frame(size_bytes: int) -> bytes:
    return size_bytes.to_bytes(4, "big") + bytes(size_bytes)


def test_edges_are_found_however_the_bytes_are_cut() -> None:
    sizes = [0, 1, 3, 300, 70_000, 0, 5]
    whole = b"".join(map(frame, sizes))
    ends = {sum(len(frame(size)) for size in sizes[: count + 1]) for count in range(len(sizes))}
    rng = random.Random(1)  # noqa: S311 - no secret
    for _ in range(200):
        edges, position = FrameEdges(), 0
        while position < len(whole):
            stop = min(len(whole), position + rng.choice([1, 2, 3, 7, 500, 100_000]))
            edge = edges.feed(whole[position:stop])
            inside = [end for end in ends if position < end <= stop]
            assert edge == (max(inside) - position if inside else -1)
            assert edges.at_edge == (stop in ends)
            position = stop


def test_a_frame_that_is_too_long_ends_the_stream() -> None:
    with pytest.raises(FrameTooLargeError, match="of 101 bytes"):
        FrameEdges(max_frame_bytes=100).feed(frame(100) + frame(101))
