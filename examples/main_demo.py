"""The main job: a decorated function on every core of this machine, or with `--address` of a cluster."""

import argparse

import distcomp


@distcomp.compute_this
def collatz_steps(number: int) -> int:
    """How many steps lead from `number` down to 1."""
    steps = 0
    while number != 1:
        number = number // 2 if number % 2 == 0 else 3 * number + 1
        steps += 1
    return steps


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--address", help="of a scheduler, e.g. tcp://a.example:7077")
distcomp.connect(parser.parse_args().address)

print("one:  the way down from 27 has", collatz_steps.compute(27), "steps")
steps = list(collatz_steps.map(range(1, 200_001)))
print(f"many: the longest from below 200,001 has {max(steps)} steps, from {steps.index(max(steps)) + 1}")
