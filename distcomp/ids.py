"""Names for the identities that cross the wire and fill the books."""

from __future__ import annotations

from typing import NewType, TypeAlias

Peer = NewType("Peer", int)
"""One connection, as the program that owns the socket numbers it; never reused within a process."""

ClusterId = NewType("ClusterId", bytes)
"""128 random bits made at a scheduler's first start."""

SessionId = NewType("SessionId", bytes)
"""128 random bits: one client's life with the scheduler, across reconnects."""

WorkerId = NewType("WorkerId", bytes)
"""128 random bits: one worker's life from start to exit, across reconnects."""

FunctionId = NewType("FunctionId", bytes)
"""BLAKE2b-256 digest of a pickled callable: names bytes, never code."""

BundleId = NewType("BundleId", bytes)
"""BLAKE2b-256 digest of a bundle of local modules; empty where a task needs none."""

NO_BUNDLE = BundleId(b"")

ArrayId: TypeAlias = tuple[SessionId, int]
"""A task array: its session and that session's counter."""

Token: TypeAlias = tuple[int, int]
"""A lease: (scheduler epoch, counter); it fences late news."""

ROLES = ("client", "worker", "observer", "admin")
"""What a peer can be. The order is part of the handshake: names are only appended."""
