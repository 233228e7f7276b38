"""User objects to bytes and back: the one place where anything is pickled, seen from outside.

Only clients and slot processes import this; what they exchange is opaque to everything in between.
"""

from __future__ import annotations

from distcomp.payload.archive import enter_bundle
from distcomp.payload.chunks import (
    CHUNK_BYTES,
    CHUNK_TASKS,
    Call,
    Chunk,
    Constant,
    Packed,
    call_size_bytes,
    dump_call,
    open_chunk,
    pack_calls,
    pack_columns,
)
from distcomp.payload.digests import argument_digest, argument_digests, function_digest, task_keys
from distcomp.payload.environment import dump_environment, enter_environment
from distcomp.payload.failures import dump_failure, load_failure
from distcomp.payload.function_cache import FunctionCache
from distcomp.payload.functions import (
    LoadedFunction,
    check_runnable,
    dump_function,
    function_name,
    load_function,
)
from distcomp.payload.json_calls import JsonCall, describe_call
from distcomp.payload.pickler import Boxed, stands_under_its_name, travels_as_function
from distcomp.payload.plain import PLAIN_TYPES
from distcomp.payload.project import Project, open_project
from distcomp.payload.results import (
    Results,
    dump_result,
    open_results,
    pack_results,
    result_size_bytes,
)

__all__ = [
    "CHUNK_BYTES",
    "CHUNK_TASKS",
    "PLAIN_TYPES",
    "Boxed",
    "Call",
    "Chunk",
    "Constant",
    "FunctionCache",
    "JsonCall",
    "LoadedFunction",
    "Packed",
    "Project",
    "Results",
    "argument_digest",
    "argument_digests",
    "call_size_bytes",
    "check_runnable",
    "describe_call",
    "dump_call",
    "dump_environment",
    "dump_failure",
    "dump_function",
    "dump_result",
    "enter_bundle",
    "enter_environment",
    "function_digest",
    "function_name",
    "load_failure",
    "load_function",
    "open_chunk",
    "open_project",
    "open_results",
    "pack_calls",
    "pack_columns",
    "pack_results",
    "result_size_bytes",
    "stands_under_its_name",
    "task_keys",
    "travels_as_function",
]
