"""A client with large results that it does not read, or does not acknowledge, until it is told to.

Called with the tasks, the bytes of each result, a file for which the tasks wait, and one for which the
acknowledgements wait; that one may be empty.
"""

from __future__ import annotations

import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from distcomp import Client
from distcomp.core.client_outbox import ClientOutbox

if TYPE_CHECKING:
    from distcomp.protocol import Message

POKE_S = 0.05


def value(index: int, size_bytes: int) -> bytes:
    """The result of a task."""
    return index.to_bytes(4, "big") * (size_bytes // 4)


def make(index: int, size_bytes: int, gate: str) -> bytes:
    """Wait for a file, then give the task's result."""
    while not Path(gate).exists():
        time.sleep(0.02)
    return index.to_bytes(4, "big") * (size_bytes // 4)


def keep_silent_until(told: Path) -> None:
    """Let no acknowledgement leave before a file is there."""
    take = ClientOutbox.take_acks

    def take_later(self: ClientOutbox) -> list[Message]:
        return take(self) if told.exists() else []

    ClientOutbox.take_acks = take_later  # type: ignore[method-assign] # that is the fault


def main(tasks: int, size_bytes: int, gate: str, told: str) -> None:
    if told:
        keep_silent_until(Path(told))
    with Client() as client:
        array = client.map(partial(make, size_bytes=size_bytes, gate=gate), range(tasks))
        client.wait_for_workers()
        client.status()
        say("submitted")
        done = threading.Event()
        if told:
            threading.Thread(target=poke, args=(client, done)).start()
        try:
            right = [result == value(index, size_bytes) for index, result in enumerate(array)]
        finally:
            done.set()
    say(f"right {sum(right)}")


def say(text: str) -> None:
    """Tell the test how far it is."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def poke(client: Client, done: threading.Event) -> None:
    """Give the client something to do, so that it sends what it has to send."""
    while not done.wait(POKE_S):
        client.status()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:5])
