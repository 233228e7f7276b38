"""By what a client finds tasks again in its store: their functions, and keys for their arguments."""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from distcomp.errors import UnstableArgumentError
from distcomp.payload import argument_digest, argument_digests, function_digest, function_name, task_keys
from distcomp.store import StoredFunction

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from distcomp.ids import FunctionId
    from distcomp.options import Options
    from distcomp.protocol import DefineBundle

    Dumped = tuple[FunctionId, bytes]

MAX_KNOWN = 1024
KEY_BYTES = 32
_log = logging.getLogger("distcomp")


class Recogniser:
    """The functions of one client as its store knows them.

    What has no digest that would be the same in another process is said once for each function.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[int, str, bytes], tuple[Dumped, StoredFunction | None]] = OrderedDict()
        self._said: set[str] = set()

    def function(
        self,
        function: Callable[..., Any],
        dumped: Dumped,
        options: Options,
        bundle: DefineBundle | None = None,
    ) -> StoredFunction | None:
        """A function as the store knows it; None if it cannot be known again.

        Args:
            function: any callable.
            dumped: what it was pickled to: the same object as long as it is what it was.
            options: with the user's version.
            bundle: the local modules that it finds: where one was edited, another.
        """
        version = "" if options.version is None else str(options.version)
        key = id(dumped), version, b"" if bundle is None else bundle[0]
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = dumped, self._recognise(function, version)
            if len(self._known) > MAX_KNOWN:
                self._known.popitem(last=False)
        return known[1]

    def key(
        self, function: StoredFunction, args: tuple[Any, ...], kwargs: dict[str, Any], *, in_run: bool
    ) -> bytes:
        """The key of a call; if it cannot be known again none, or in a run one that is never met again."""
        try:
            digest = argument_digest(args, kwargs)
        except UnstableArgumentError as error:
            self._say(function.name, error)
            return os.urandom(KEY_BYTES) if in_run else b""
        return task_keys(function.digest, function.version, (digest,))[0]

    def keys(
        self, function: StoredFunction, columns: Sequence[Sequence[Any]], *, in_run: bool
    ) -> list[bytes]:
        """The keys of the calls that columns of arguments describe."""
        try:
            digests = argument_digests(columns)
        except UnstableArgumentError:
            return [self.key(function, row, {}, in_run=in_run) for row in zip(*columns, strict=True)]
        return task_keys(function.digest, function.version, digests)

    def _recognise(self, function: Callable[..., Any], version: str) -> StoredFunction | None:
        name = function_name(function)
        try:
            digest = function_digest(function)
        except UnstableArgumentError as error:
            self._say(name, error)
            return None
        return StoredFunction(name, digest.total, version, digest.parts)

    def _say(self, name: str, error: UnstableArgumentError) -> None:
        if name not in self._said:
            self._said.add(name)
            _log.warning("%s is computed each time: %s", name, error)
