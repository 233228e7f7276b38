"""Tells of files of local modules that were edited after they had been imported.

Where tasks run, such a module is imported from its file, so what runs there is no longer what this process
has. Only files that were written since this process began are looked at. A change to nothing but the module's
own statements, such as a constant, is seen once the module was reloaded.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import CodeType, FunctionType
from typing import TYPE_CHECKING

from distcomp.payload.modules import LOCAL, home
from distcomp.payload.reading import encode_code

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_began = time.time()


def edited_source(function: FunctionType, encode: Callable[[object], bytes]) -> bytes:
    """The source of the file that a function of a local module is from, if the file has it no longer.

    Args:
        function: any.
        encode: encodes constants.

    Returns:
        The file's bytes; none if the function is what stands there.
    """
    module = sys.modules.get(function.__module__)
    file = function.__code__.co_filename
    if home(function.__module__) is not LOCAL or getattr(module, "__file__", None) != file:
        return b""
    try:
        if Path(file).stat().st_mtime < _began:
            return b""
        source = Path(file).read_bytes()
        whole = compile(source, file, "exec", dont_inherit=True)
    except (OSError, SyntaxError, ValueError):  # it is gone or half written: nothing of it will run either
        return b""
    now = encode_code(function.__code__, encode)
    return b"" if any(encode_code(code, encode) == now for code in _codes(whole)) else source


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)
