"""`distcomp publish`: gives a function a name under which it can be called over HTTP."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distcomp.cli.flags import EXIT_ENDED, Flags, run
from distcomp.errors import ConfigError
from distcomp.publishing import find_gateway, publish

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

EXAMPLES = """\
  distcomp publish shapes:area                      as `area`, version 1, to the gateway of this host
  distcomp publish shapes:area --function-version 2 --gateway https://a.example
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = Flags(
        "distcomp publish",
        "Upload a function with the local modules that it needs, so that everybody with a token can call it\n"
        "by its name, with JSON. A version never changes: publish another one instead.",
        EXAMPLES,
        arguments="MODULE:FUNCTION",
    )
    parser.add_argument("function", help="the module, a colon, and the function's name in it")
    parser.value("--name", "what it is called by; the function's own name if not given")
    parser.value("--function-version", "its version", default="1")
    parser.gateway()
    parser.common()
    return run(parser, _publish, argv)


def _publish(flags: argparse.Namespace) -> int:
    access = find_gateway(flags.gateway)
    function = find_function(flags.function)
    told = publish(
        function, flags.name, version=flags.function_version, gateway=access.address, token=access.token
    )
    print(f"{told['name']} version {told['version']} is published at {access.address}")
    print(f"POST {access.address}/v1/functions/{told['name']}/tasks")
    return EXIT_ENDED


def find_function(text: str) -> Any:
    """What `module:name` means, looked for in the working folder too.

    Raises:
        ConfigError: there is no such thing.
    """
    module, colon, name = text.partition(":")
    if not colon or not name:
        raise ConfigError(f"{text!r} is not like module:function")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{text}: {error}") from error
    return found
