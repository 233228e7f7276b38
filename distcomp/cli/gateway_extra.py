"""What a gateway needs besides distcomp: the packages of the extra `gateway`."""

from __future__ import annotations

from importlib.util import find_spec

from distcomp.errors import ConfigError

NEEDED = ("httptools", "starlette", "uvicorn")


def check_extra() -> None:
    """Raise `ConfigError` if a package is missing."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise ConfigError(f"a gateway needs {', '.join(missing)}: pip install 'distcomp[gateway]'")
