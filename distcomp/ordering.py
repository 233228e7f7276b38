"""In which order messages leave a connection: who waits for company, and who must not overtake whom.

It knows all messages; a program that imports it can read them all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distcomp.protocol import (
    Accepted,
    AckOutcomes,
    CancelTasks,
    DefineBundle,
    DefineFunction,
    OpenSession,
    ReadOutcomes,
    Submit,
    TasksBegan,
    TasksFailed,
    TasksRetried,
    TasksSettled,
)
from distcomp.worker_protocol import (
    AckSettles,
    CancelLease,
    DefineSession,
    GrantLease,
    LeaseReturned,
    LeaseSettled,
    RetractLease,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

PATIENT: frozenset[type[Any]] = frozenset(
    {Accepted, AckOutcomes, AckSettles, ReadOutcomes, TasksBegan, TasksRetried}
)
"""Messages that nobody waits for: a connection keeps them back a little, to leave with the next others."""

ORDER_KEYS: dict[type[Any], Callable[[Any], tuple[Hashable, ...]]] = {
    DefineFunction: lambda m: (m.function,),
    DefineBundle: lambda m: (m.bundle,),
    DefineSession: lambda m: (m.session,),
    OpenSession: lambda m: (m.session,),
    Submit: lambda m: (m.array[0], m.function, m.bundle, m.array),
    CancelTasks: lambda m: (m.array[0], m.array),
    TasksSettled: lambda m: (m.array,),
    TasksFailed: lambda m: (m.array,),
    GrantLease: lambda m: (m.array[0], m.function, m.bundle, m.token),
    RetractLease: lambda m: (m.token,),
    CancelLease: lambda m: (m.token,),
    LeaseSettled: lambda m: (m.token,),
    LeaseReturned: lambda m: (m.token,),
}
"""What a message must not overtake: it waits while a transfer of a message with one of its keys runs."""

HELD_KEYS: dict[type[Any], Callable[[Any], tuple[Hashable, ...]]] = {
    Submit: lambda m: (m.array,),
    CancelTasks: lambda m: (m.array,),
    TasksSettled: lambda _: (),
    TasksFailed: lambda _: (),
    GrantLease: lambda m: (m.token,),
}
"""Those order keys that later messages wait for; all of a message's keys where it is not listed.

A lease waits for its session, function and bundle, but another lease of that session must not wait for it.
"""
