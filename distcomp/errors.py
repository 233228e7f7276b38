"""Every error a user or a peer can meet, in one tree.

`DistcompError` is the root. The second level says who has to act: whoever wrote the settings
(`ConfigError`), whoever runs the network and its secrets (`ConnectError`), whoever wrote the other
program (`ProtocolError`), whoever called us (`UsageError`), or whoever wrote the task (`TaskError`).
"""

from __future__ import annotations

from concurrent.futures import BrokenExecutor


class DistcompError(Exception):
    """Root of every error that distcomp raises of its own."""


class ConfigError(DistcompError, ValueError):
    """A flag, variable or file says something that cannot be followed."""


class AddressTakenError(ConfigError):
    """Another program listens where this one should."""


# --- reaching a cluster ---------------------------------------------------------------------------


class ConnectError(DistcompError, ConnectionError):
    """No usable connection to a scheduler. `heals` says whether waiting can help."""

    heals = False


class UnreachableError(ConnectError):
    """Nobody answered at that address: refused, timed out, or the name is unknown."""

    heals = True


class SchedulerBusyError(ConnectError):
    """The scheduler has as many connections as it may hold."""

    heals = True


class AuthenticationError(ConnectError):
    """One side could not prove that it knows the secret for the role and owner named."""


class CertificateError(ConnectError):
    """The certificate of what answers at an address is not for it, expired, or of an unknown authority."""


class WrongClusterError(ConnectError):
    """Another cluster answers at that address than the one the access file was made for."""


class VersionMismatchError(ConnectError):
    """The two sides speak different protocol versions."""


class ForeignProtocolError(ConnectError):
    """What answers at that address does not speak distcomp's protocol at all."""


class RoleError(ConnectError):
    """The connection's role does not allow what was asked."""


class RunTakenError(ConnectError):
    """Another process has the run open: one at a time may."""


class TunnelLostError(ConnectError):
    """A gateway has ended a client's tunnel, or was started anew; the client opens another one."""

    heals = True


class EmbeddedClusterError(ConnectError):
    """The scheduler or worker of this process's own did not start, or ended by itself."""


class TaskOverError(ConnectError):
    """The task that a client was made in has ended, and with it the client's right to connect."""


class AmbiguousClusterError(DistcompError):
    """Several running schedulers could be meant, and nothing says which."""


class SlotsUnavailableError(DistcompError, OSError):
    """No slot process can be had on this host: the template that they are forked from keeps ending."""


# --- the journal ----------------------------------------------------------------------------------


class JournalError(DistcompError, OSError):
    """The scheduler's journal cannot be used as it is."""


class JournalBusyError(JournalError):
    """Another scheduler uses the journal."""


class JournalFormatError(JournalError):
    """The file is no journal, or that of another cluster, or of a newer distcomp."""


class JournalDamagedError(JournalError):
    """What a journal holds is not what was written to it.

    Attributes:
        sequence: the number of the first commit that cannot be read; all before it can. 0 is the head.
    """

    def __init__(self, text: str, sequence: int) -> None:
        super().__init__(text)
        self.sequence = sequence


class JournalFullError(JournalError):
    """There is no room on the journal's disk; it goes on by itself when there is."""


class JournalFailedError(JournalError):
    """The journal's disk did not do what it was asked, so nothing after that can be relied on."""


# --- the client's store ---------------------------------------------------------------------------


class StoreError(DistcompError, OSError):
    """The file in which a client keeps results cannot be used as it is."""


class StoreBusyError(StoreError):
    """Other processes kept the store locked for longer than `store_busy_s`."""


class StoreFormatError(StoreError):
    """The file is no store, or one of another version of distcomp."""


class StoreDamagedError(StoreError):
    """What a store holds is not what was written to it, so that it cannot be read at all."""


class StoreFullError(StoreError):
    """There is no room on the store's disk."""


class UnknownRunError(StoreError, LookupError):
    """Neither the scheduler nor the store has a run of that name."""


# --- talking to a peer ----------------------------------------------------------------------------


class ProtocolError(DistcompError):
    """A peer sent something that the protocol does not allow; its connection is closed."""


class FrameTooLargeError(ProtocolError):
    """A frame announces more bytes than a frame may have."""


class MalformedMessageError(ProtocolError):
    """A frame's content is no list of known messages within their bounds."""


# --- calling us -----------------------------------------------------------------------------------


class UsageError(DistcompError):
    """A call that cannot be carried out as made."""


class PublishError(UsageError):
    """A gateway does not take a function, or has none of that name; the text says why."""


class DemoError(UsageError):
    """The demo cannot be shown here."""


class UnpicklableError(UsageError, TypeError):
    """A function or an argument cannot be turned into bytes; the text names the path to the culprit."""


class UnstableArgumentError(UsageError, TypeError):
    """Something has no digest that would be the same in another process, so its result cannot be found again.

    Attributes:
        path: the way to it, as `argument 2 → .lock`.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type[UnstableArgumentError], tuple[str, str]]:
        return type(self), (self.path, self.reason)


class BundleTooLargeError(UsageError, ValueError):
    """The local modules that tasks need exceed `bundle_bytes` or `bundle_files`."""


class PayloadTooLargeError(UsageError, ValueError):
    """One task's arguments, or one function, exceed `max_payload_bytes`."""


class WindowFullError(UsageError):
    """Too much was submitted from the event loop's own thread, which must not wait."""


class SubmitRefusedError(UsageError):
    """The scheduler did not accept a submit, and said why."""


class BlockingCallError(UsageError, RuntimeError):
    """A blocking call was made on the client's own loop thread, where it would never return."""


class ClientClosedError(UsageError, RuntimeError):
    """The client was closed before this call."""


class ForkedClientError(UsageError, RuntimeError):
    """A client was inherited through `fork`; only the process that made it can use it."""


class NestedSubmitError(UsageError, RuntimeError):
    """A task cannot wait for tasks that it submitted: too many wait already where it runs.

    Attributes:
        chain: the functions of the tasks that wait for each other, the outermost first.
    """

    chain: tuple[str, ...] = ()


# --- how a task ends badly ------------------------------------------------------------------------


class TaskError(DistcompError):
    """A task failed for a reason that is not an exception of its own code."""


class TaskTimeoutError(TaskError, TimeoutError):
    """A task ran longer than its `timeout_s` and was stopped."""


class TaskCrashedError(TaskError, BrokenExecutor):
    """A task ended the process that ran it, as often as its crash limit allows."""


class TaskLostError(TaskError, BrokenExecutor):
    """The worker that ran a task was lost, and the task may not be started again."""


class InitializerError(TaskError, BrokenExecutor):
    """An executor's initializer failed in a slot process; the executor takes no more tasks."""


class UnpicklableResultError(TaskError, TypeError):
    """A task returned something that cannot be turned into bytes."""


class UnloadableTaskError(TaskError):
    """A worker could not rebuild the function, its arguments or its result from their bytes."""


class SchedulerLostError(TaskError, ConnectionError):
    """The scheduler went away, and with it what had not been delivered."""


class SessionExpiredError(TaskError):
    """The client was away longer than `client_grace_s`; its undetached work was cancelled."""


class RemoteTracebackError(TaskError):
    """Carries the traceback, host, attempt and last output of a task as the cause of its exception."""
