"""Words for a module that a worker lacks and this process has."""

from __future__ import annotations

from distcomp.payload.modules import is_local, is_standard, places_of
from distcomp.payload.versions import version_of

_STUB_WORDS = "lacks the compiled extension "


def stub_source(extension: str) -> str:
    """What travels in the place of a compiled extension: a module that says why it cannot be imported."""
    version = version_of(extension) or "of no version"
    words = f"{_STUB_WORDS}{extension} ({version} at the client), which does not travel"
    # Without a name: `from package import module` passes over an error that bears the module's.
    return f"raise ModuleNotFoundError({words!r})\n"


def missing_words(error: BaseException | None, worker: str, host: str) -> str:
    """Say in one line which module a worker lacks.

    Args:
        error: what was raised there.
        worker: that worker's name.
        host: its host.

    Returns:
        The line; empty if the error is about something else, or about a module that is not here either.
    """
    if not isinstance(error, ModuleNotFoundError) or not host:
        return ""
    text = str(error)
    if not text.startswith(_STUB_WORDS):
        text = _lacks(error.name) if error.name else ""
    return f"worker {worker} on host {host} {text}; install it there" if text else ""


def _lacks(name: str) -> str:
    root = name.partition(".")[0]
    part = f"{name} of " if name != root else ""
    if is_standard(root):
        return f"lacks {name}, which belongs to Python"
    if is_local(root):
        return f"lacks module {name}, which is the project's own and did not travel: see Client(project=...)"
    if places_of(root) == (None, []):
        return ""
    return f"lacks {part}package {root} ({version_of(root) or 'of no version'} at the client)"
