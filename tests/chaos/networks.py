"""Networks with a router in the middle, which can stop forwarding: a partition that nobody is told of."""

from __future__ import annotations

import contextlib
import subprocess
from typing import TYPE_CHECKING

from hosts import await_own_namespaces

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FORWARDING = "/proc/sys/net/ipv4/conf/{}/forwarding"


class Network:
    """Places with an address each, and a router between them.

    Args:
        holders: a process that holds the network of each place, and of the router, by name.
    """

    def __init__(self, holders: dict[str, int]) -> None:
        self._holders = holders
        self._places = [name for name in holders if name != "router"]

    def inside(self, place: str) -> tuple[str, ...]:
        """What to put before a command that is to run at a place."""
        return ("nsenter", "--target", str(self._holders[place]), "--net", "--")

    def address(self, place: str) -> str:
        """Where a place is reached."""
        return f"10.78.{self._places.index(place)}.1"

    def part(self, place: str, *, hears: bool, speaks: bool) -> None:
        """Let what a place says, or what is said to it, get through or vanish without a word.

        Args:
            place: where it is silent; it hears and speaks at first.
            hears: what others say to it arrives.
            speaks: what it says arrives.
        """
        self._set(f"to-{place}", forwards=speaks)
        change = "delete" if hears else "replace"
        route = ("ip", "route", change, "blackhole", f"{self.address(place)}/32")
        subprocess.run([*self.inside("router"), *route], check=not hears, capture_output=True)

    def connect(self) -> None:
        """Lay the wires, and have the router forward."""
        for number, place in enumerate(self._places):
            wire = f"to-{place}"
            _do(
                *(*self.inside("router"), "ip", "link", "add", wire, "type", "veth"),
                *("peer", "name", "wire0", "netns", str(self._holders[place])),
            )
            self._raise("router", wire, f"10.78.{number}.254")
            self._raise(place, "wire0", self.address(place))
            self._raise(place, "lo", "")
            _do(*self.inside(place), "ip", "route", "add", "default", "via", f"10.78.{number}.254")
            self._set(wire, forwards=True)

    def _raise(self, place: str, wire: str, address: str) -> None:
        if address:
            _do(*self.inside(place), "ip", "address", "add", f"{address}/24", "dev", wire)
        _do(*self.inside(place), "ip", "link", "set", wire, "up")

    def _set(self, wire: str, *, forwards: bool) -> None:
        path = FORWARDING.format(wire)
        _do(*self.inside("router"), "sh", "-c", f"echo {int(forwards)} > {path}")


@contextlib.contextmanager
def network(places: Sequence[str]) -> Iterator[Network]:
    """A network with these places, gone afterwards."""
    with contextlib.ExitStack() as stack:
        holders = {}
        for name in (*places, "router"):
            holder = subprocess.Popen(["unshare", "--net", "--", "sleep", "infinity"])
            stack.callback(_end, holder)
            await_own_namespaces(holder.pid)
            holders[name] = holder.pid
        made = Network(holders)
        made.connect()
        yield made


def _do(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
