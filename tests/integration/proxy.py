"""A wire between programs that a test can cut."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

READ_BYTES = 64 << 10
RESET = struct.pack("ii", 1, 0)


class Proxy:
    """Joins whoever connects to `address` to a program at another port of this host.

    Args:
        port: the program's port.

    Attributes:
        address: as a join string or a client wants it.
        joined: how many connections there have been.
    """

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ends: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._serve)]
        self._lock = threading.Lock()
        self._is_open = True
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self.joined = 0

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self.cut(stays_cut=True)  # for whoever is being let in at this moment, too
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def cut(self, *, stays_cut: bool = False) -> None:
        """Reset all connections there are, and those to come too if it is to stay cut."""
        with self._lock:
            self._is_open = not stays_cut
            ends, self._ends = self._ends, []
            for end in ends:
                with contextlib.suppress(OSError):  # the other side was faster
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    end.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Let connections through again."""
        with self._lock:
            self._is_open = True

    def _serve(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:  # it was shut down
                return
            with self._lock:
                if not self._is_open:
                    near.close()
                    continue
                try:
                    far = socket.create_connection(self._target)
                except OSError:  # the program is away
                    near.close()
                    continue
                self._ends += [near, far]
                self.joined += 1
            pumps = [threading.Thread(target=_pump, args=pair) for pair in ((near, far), (far, near))]
            closer = threading.Thread(target=_close_after, args=(pumps, (near, far)))
            self._threads.append(closer)
            for thread in (*pumps, closer):
                thread.start()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(READ_BYTES):
            sink.sendall(data)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def _close_after(pumps: list[threading.Thread], ends: tuple[socket.socket, socket.socket]) -> None:
    for pump in pumps:
        pump.join()
    for end in ends:
        end.close()
