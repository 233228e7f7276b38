"""What a code object does, told without where it was written: its steps and constants, and what it reads.

Positions, docstrings and file names are left out, so that moving a function or describing it better changes
nothing. Steps are bytecode: it is what runs, even where the file has been edited since. It differs between
versions of Python, which may compute differently, too.
"""

from __future__ import annotations

import dis
from types import CodeType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_READS = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})
_FOLLOWS = frozenset({"LOAD_ATTR", "LOAD_METHOD"})
_BETWEEN = frozenset({"CACHE", "EXTENDED_ARG", "NOP", "PUSH_NULL"})
_HAS_CONST = frozenset(dis.hasconst)


class NameRead(NamedTuple):
    """A name that a code looks up among the globals, and the attributes that it goes on to."""

    name: str
    attributes: tuple[str, ...]


class ModuleRead(NamedTuple):
    """A module that a code imports when it runs, and what it takes from it by `from`; nothing: all."""

    name: str
    taken: tuple[str, ...]


def encode_code(code: CodeType, encode: Callable[[object], bytes]) -> bytes:
    """What a code does, as bytes.

    Args:
        code: of a function, class or module.
        encode: encodes constants.
    """
    constants = [
        None if place == 0 and _is_docstring(code, constant) else constant
        for place, constant in enumerate(code.co_consts)
    ]
    parts = [encode_code(each, encode) if isinstance(each, CodeType) else encode(each) for each in constants]
    counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    caught = getattr(code, "co_exceptiontable", b"")
    return b"K" + encode((counts, names, code.co_code, caught, len(parts))) + b"".join(parts)


def _is_docstring(code: CodeType, constant: object) -> bool:
    """Whether the first constant is there for `__doc__` alone."""
    if not isinstance(constant, str):
        return False
    steps = code.co_code
    return not any(steps[at] in _HAS_CONST and steps[at + 1] == 0 for at in range(0, len(steps), 2))


def read_by(code: CodeType) -> Iterator[NameRead | ModuleRead]:
    """What a code and those nested in it look up outside of them, in the order of their steps."""
    name = imported = None
    taken: list[str] = []
    for step in dis.get_instructions(code):
        if step.opname in _BETWEEN:
            continue
        goes_on = step.opname == "IMPORT_FROM" if imported is not None else step.opname in _FOLLOWS
        if goes_on and (name or imported) is not None:
            taken.append(step.argval)
        elif imported is None or not step.opname.startswith(("STORE_", "SWAP", "ROT_")):
            yield from _told(name, imported, taken)
            name = step.argval if step.opname in _READS else None
            imported = step.argval if step.opname == "IMPORT_NAME" else None
            taken = []
    yield from _told(name, imported, taken)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from read_by(constant)


def _told(name: str | None, imported: str | None, taken: list[str]) -> Iterator[NameRead | ModuleRead]:
    if name is not None:
        yield NameRead(name, tuple(taken))
    if imported is not None:
        yield ModuleRead(imported, tuple(taken))
