"""Runs one world and prints what happens in it: `python tests/simulation/replay.py SEED`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent))

from simulator.ledger import BrokenPromiseError
from simulator.weather import draw
from simulator.world import World

if TYPE_CHECKING:
    from simulator.wire import End

    from distcomp.protocol import Message


def short(value: object) -> str:
    """A value without what makes it long."""
    if isinstance(value, bytes):
        return value.lstrip(b"0").decode() if value.isdigit() else f"<{len(value)}>"
    if isinstance(value, tuple):
        return "(" + ", ".join(map(short, value)) + ")"
    return str(value)


def main() -> int:
    seed = int(sys.argv[1])
    weather = draw(seed)
    world = World(weather, print)

    def hear(end: End, message: Message) -> None:
        fields = " ".join(
            f"{name}={short(value)}" for name, value in zip(message._fields, message, strict=True)
        )
        world.say(f"{end.far.host.name} > {end.host.name}  {type(message).__name__} {fields}")

    world.air.tap = hear
    sys.stdout.write(f"seed {seed}: {weather}\n\n")
    try:
        world.run()
    except BrokenPromiseError as error:
        sys.stdout.write(f"\nbroken at {world.clock.now:g} s: {error}\n")
        return 1
    sys.stdout.write(f"\nended well at {world.clock.now:g} s: {dict(world.storm.happened)}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
