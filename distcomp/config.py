"""Every setting of every program, with its default, its bounds and its words; and how they are read.

A setting is a field made by `setting`. The settings of a program are one frozen dataclass; the bounds
of a connection (`WireLimits`) are a part of each. `from_environment` fills one from `DISTCOMP_<NAME>`;
flags of the command line are handed in as overrides, and win. What files say comes as variables too:
see `settings_file.surroundings`.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, field, fields
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, get_type_hints
from urllib.parse import urlsplit

from distcomp.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from typing_extensions import Self

DEFAULT_PORT = 7077
INLINE = "inline:"
"""The address of no cluster: tasks run in the client's own process."""
PREFIX = "DISTCOMP_"
SLOT_VARIABLE = "DISTCOMP_IN_SLOT"
"""Set in the environment of every slot process: what runs there is a task."""

T = TypeVar("T")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")
_YES = frozenset({"1", "true", "yes", "on"})
_NO = frozenset({"0", "false", "no", "off", ""})


def setting(default: T, words: str, *, low: float = 0, high: float = math.inf) -> T:
    """A field of a settings class: its default, what it means, and its bounds (both included)."""
    made: T = field(default=default, metadata={"words": words, "low": low, "high": high})
    return made


class Described(NamedTuple):
    """One setting as flags and help texts need it."""

    name: str
    variable: str
    kind: type[Any]
    default: Any
    words: str
    low: float = 0
    high: float = math.inf

    def allowed(self) -> str:
        """What values it takes, in words."""
        if self.kind is bool:
            return "true or false"
        if self.kind is str:
            return "text"
        number = "a whole number" if self.kind is int else "a number"
        return f"{number} from {self.low:,}" + ("" if self.high == math.inf else f" to {self.high:,}")

    def takes(self, value: Any) -> bool:
        """Whether it may have a value that already has a type of its own."""
        if self.kind in (bool, str):
            return type(value) is self.kind
        kinds = (int,) if self.kind is int else (int, float)
        return type(value) in kinds and self.low <= value <= self.high and value != math.inf


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What all settings classes share: their bounds are checked as they are made."""

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            low, high = each.metadata.get("low", 0), each.metadata.get("high", math.inf)
            if type(value) in (int, float) and not low <= value <= high:
                raise ConfigError(f"{each.name} is {value}, but must be from {low} to {high}")

    @classmethod
    def describe(cls) -> Iterator[Described]:
        """Every setting of this class, those of its parts included."""
        hints = _kinds_of(cls)
        for each in fields(cls):
            kind = hints[each.name]
            if issubclass(kind, Settings):
                yield from kind.describe()
            else:
                variable = PREFIX + each.name.upper()
                yield Described(each.name, variable, kind, each.default, **each.metadata)

    def values(self) -> Iterator[tuple[str, Any]]:
        """Every setting of these and of their parts, by name."""
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, Settings):
                yield from value.values()
            else:
                yield each.name, value

    def variables(self) -> dict[str, str]:
        """The variables that make these settings of the defaults."""
        return {
            each.variable: str(getattr(self, each.name))
            for each in self.describe()
            if getattr(self, each.name) != each.default
        }

    @classmethod
    def from_environment(cls, environ: Mapping[str, str], **overrides: Any) -> Self:
        """Settings from `DISTCOMP_<NAME>` variables, with `overrides` on top.

        Args:
            environ: the variables; `settings_file.surroundings()` for all that this process is told.
            **overrides: values by setting name, of parts too; None means not given.

        Raises:
            ConfigError: a value cannot be read or is out of bounds, or no setting has that name.

        Example:
            >>> SchedulerSettings.from_environment({"DISTCOMP_HOST": "::1"}, port=0).host
            '::1'
        """
        given = {name: value for name, value in overrides.items() if value is not None}
        unknown = given.keys() - {each.name for each in cls.describe()}
        if unknown:
            raise ConfigError(f"there is no setting named {', '.join(sorted(unknown))}")
        return cls.filled(environ, given)

    @classmethod
    def filled(cls, environ: Mapping[str, str], given: Mapping[str, Any]) -> Self:
        """Settings from variables and from values already checked to have a place."""
        hints = _kinds_of(cls)
        values: dict[str, Any] = {}
        for each in fields(cls):
            kind = hints[each.name]
            variable = PREFIX + each.name.upper()
            if issubclass(kind, Settings):
                values[each.name] = kind.filled(environ, given)
            elif each.name in given:
                values[each.name] = given[each.name]
            elif variable in environ:
                values[each.name] = parse_value(variable, environ[variable], kind)
        return cls(**values)


_kinds: dict[type[Any], dict[str, type[Any]]] = {}


def _kinds_of(cls: type[Any]) -> dict[str, type[Any]]:
    """The types of a class's settings, kept: finding them takes a millisecond, and tasks may make clients."""
    kinds = _kinds.get(cls)
    if kinds is None:
        kinds = _kinds[cls] = get_type_hints(cls)
    return kinds


def parse_value(name: str, text: str, kind: type[Any]) -> Any:
    """`text` as a bool, int, float or str; raises `ConfigError` naming the variable or flag."""
    word = text.strip().lower()
    if kind is bool:
        if word in _YES or word in _NO:
            return word in _YES
        raise ConfigError(f"{name} is {text!r}, but must be yes or no")
    try:
        value = kind(text)
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise ConfigError(f"{name} is {text!r}, but must be {wanted}") from None
    if kind is float and not math.isfinite(value):
        raise ConfigError(f"{name} is {text!r}, but must be finite")
    return value


# --- the settings ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class WireLimits(Settings):
    """The bounds of one connection. Both ends of a connection should have the same."""

    heartbeat_s: float = setting(
        2.0, "seconds without a message after which a sign of life is sent", low=0.01
    )
    silence_s: float = setting(10.0, "seconds of silence after which a peer is given up", low=0.02)
    handshake_s: float = setting(5.0, "seconds that a new connection has for its handshake", low=0.01)
    patience_s: float = setting(
        0.005, "seconds that an acknowledgement waits for other messages to leave with", high=1
    )
    linger_s: float = setting(1.0, "seconds that the last messages of a closing connection have to leave")
    max_payload_bytes: int = setting(1 << 30, "size of one task's arguments or result", low=1, high=1 << 30)
    max_transfer_bytes: int = setting(
        2 << 30, "bytes of payloads under way to one receiver by one connection", low=1 << 20
    )
    max_transfers: int = setting(64, "payloads under way by one connection at the same time", low=1)
    credit_bytes: int = setting(
        1 << 20, "bytes of payloads sent to a peer and not yet stored there", low=1 << 20
    )
    max_parked_messages: int = setting(
        200_000, "messages that wait for the payload of another one, by connection", low=1
    )
    max_write_buffer_bytes: int = setting(
        64 << 20, "bytes that a peer may leave unread before its connection is closed", low=1 << 20
    )


@dataclass(frozen=True, kw_only=True)
class SchedulerSettings(Settings):
    """The settings of a scheduler."""

    wire: WireLimits = field(default_factory=WireLimits)
    host: str = setting("127.0.0.1", "the address to listen at")
    port: int = setting(DEFAULT_PORT, "the port to listen at; 0 takes a free one", high=65535)
    advertise: str = setting(
        "", "host or host:port by which others reach this scheduler, if not as it listens"
    )
    auth: bool = setting(True, "peers must prove that they know a secret; only loopback may do without")
    allow_plaintext: bool = setting(False, "listen beyond loopback although nothing is encrypted")
    max_connections: int = setting(20_000, "connections at the same time", low=1)
    listen_backlog: int = setting(1024, "connections that wait to be taken in", low=1)
    reconnect_grace_s: float = setting(2.0, "seconds that a worker without connection keeps its leases")
    restart_grace_s: float = setting(
        10.0, "seconds that a scheduler waits after a restart for workers with leases from before"
    )
    client_grace_s: float = setting(60.0, "seconds that a client without connection keeps its session")
    lease_target_s: float = setting(0.010, "seconds of work in a lease", low=0.0001)
    lease_rate: float = setting(20_000.0, "leases settled in a second, at most, by design", low=1)
    lease_horizon_s: float = setting(0.05, "a second lease waits at a slot that is free within these seconds")
    crash_limit: int = setting(3, "slot processes that a task may end before it fails", low=1)
    loss_limit: int = setting(3, "workers that may be lost while they run a task before it fails", low=1)
    max_held_bytes: int = setting(8 << 30, "bytes of arguments and results held in memory", low=1 << 20)
    max_function_bytes: int = setting(1 << 30, "bytes of function definitions held in memory", low=1 << 20)
    max_bundle_bytes: int = setting(1 << 30, "bytes of bundles of local modules held in memory", low=1 << 20)
    max_sessions: int = setting(10_000, "sessions at the same time", low=1)
    max_arrays: int = setting(1_000_000, "unfinished task arrays of one session", low=1)
    max_workers: int = setting(10_000, "workers at the same time", low=1)
    max_unused_functions: int = setting(10_000, "functions remembered that no task uses", low=1)
    max_unread_bytes: int = setting(
        1 << 30,
        "bytes of results that a client may leave unread before nothing more of it runs; not for runs",
        low=1,
    )
    result_retention_s: float = setting(
        7 * 86400.0, "seconds for which results and detached tasks are kept for a client that is away"
    )
    max_outcome_memory_bytes: int = setting(
        64 << 20, "bytes of results of all clients in memory beyond which more of them go to files", low=1
    )
    session_outcome_bytes: int = setting(
        16 << 20, "bytes of results of one client in memory beyond which they go to files", low=1
    )
    least_outcome_bytes: int = setting(
        256 << 10, "bytes of results that one client may have in memory whatever others have there", low=1
    )
    outcome_window_bytes: int = setting(
        8 << 20, "bytes of results under way to a client that it has not read", low=1
    )
    max_spill_bytes: int = setting(
        64 << 30, "bytes of results in files with which nothing more runs of who has some there", low=1
    )
    spill_segment_bytes: int = setting(
        64 << 20, "bytes after which another file for results is begun", low=1 << 12
    )
    spill_retry_s: float = setting(
        5.0, "seconds before results are written to files again after that failed", low=0.01
    )
    max_run_arrays: int = setting(1_000_000, "task arrays of one run, finished ones included", low=1)
    max_ended_runs: int = setting(1_000, "runs that are no more of which is remembered why", low=1)
    retract_worth_s: float = setting(0.005, "seconds of work that are worth taking back from a busy slot")
    retract_interval_s: float = setting(0.002, "shortest time between two looks for work to take back")
    retract_look_s: float = setting(5e-6, "such looks are as many times this apart as there are leases")
    retract_answer_s: float = setting(0.25, "seconds after which work is asked back again", low=0.001)
    rest_s: float = setting(1.0, "seconds without work for a worker that could not prepare a slot", low=0.01)
    unprepared_limit: int = setting(
        10, "times in a row that no slot process could be prepared for a session before its tasks fail", low=1
    )
    restate_objects: int = setting(
        512, "records that a turn adds to a journal which is compacted meanwhile", low=1, high=1 << 16
    )
    restate_bytes: int = setting(
        1 << 20, "bytes of such records after which a turn adds no more", low=1, high=1 << 28
    )
    session_log_lines_per_s: int = setting(
        1000, "lines a second that a client gets of what its tasks print and log", low=1
    )
    session_log_bytes_per_s: int = setting(1 << 20, "bytes a second that these lines may have", low=1 << 10)
    tell_retries_s: float = setting(
        0.25, "seconds within which retries of an array are told to its client at once"
    )
    max_status_arrays: int = setting(1_000, "unfinished task arrays that an observer is told of", low=1)
    status_interval_s: float = setting(0.1, "shortest time between two reports to one observer", low=0.01)


@dataclass(frozen=True, kw_only=True)
class JournalSettings(Settings):
    """The settings of a scheduler's journal."""

    journal_backlog_bytes: int = setting(
        256 << 20, "bytes that wait for the journal with which no further task is accepted", low=1 << 16
    )
    journal_commit_bytes: int = setting(
        16 << 20, "bytes after which a commit of the journal takes nothing more in", low=1 << 10, high=1 << 28
    )
    journal_blob_bytes: int = setting(
        256 << 10, "bytes above which arguments and results have files of their own", low=64 << 10
    )
    journal_waiting_bytes: int = setting(
        1 << 30, "bytes of such files yet to be written with which their senders get no more credit", low=1
    )
    journal_checkpoint_bytes: int = setting(
        32 << 20, "bytes of commits that may wait to be moved to their place in the journal", low=1 << 16
    )
    journal_compact_factor: float = setting(
        2.0, "the journal is compacted when it is so many times as large as what it has to keep", low=1.1
    )
    journal_compact_bytes: int = setting(64 << 20, "bytes below which the journal is not compacted", low=1)
    journal_drop_bytes: int = setting(
        8 << 20, "bytes of a compacted journal that are freed between two commits", low=1 << 12
    )
    journal_retry_first_s: float = setting(
        0.05, "seconds before a commit is tried again for which the disk had no room", low=0.001
    )
    journal_retry_most_s: float = setting(2.0, "longest wait between two such attempts", low=0.001)
    journal_close_s: float = setting(
        10.0, "seconds that a stopping scheduler waits for room on the disk of its journal"
    )


@dataclass(frozen=True, kw_only=True)
class SlotSettings(Settings):
    """The settings of the slot processes of a worker."""

    idle_processes: int = setting(4, "slot processes kept although their session has no task for them")
    spare_delay_s: float = setting(0.05, "seconds after which a slot process is started ahead of its need")
    functions_per_slot: int = setting(256, "functions kept loaded in a slot process", low=1)
    output_bytes: int = setting(64 << 10, "bytes kept of what a task prints last", low=1 << 10, high=1 << 20)
    slot_log_lines_per_s: int = setting(
        200, "lines a second that a slot process passes on, of tasks whose client wants what they log", low=1
    )
    slot_log_bytes_per_s: int = setting(
        256 << 10, "bytes a second that these lines may have", low=1 << 10, high=512 << 10
    )
    exit_grace_s: float = setting(1.0, "seconds that a slot process has to end by itself")
    unused_bundles: int = setting(16, "unpacked bundles of local modules kept although no process uses them")
    bundle_bytes: int = setting(
        1 << 30, "bytes of an unpacked bundle, each file counted as 512 at least", low=1
    )
    template_restarts: int = setting(5, "ends of the template within a minute after which it is given up")


@dataclass(frozen=True, kw_only=True)
class WorkerSettings(Settings):
    """The settings of a worker."""

    wire: WireLimits = field(default_factory=WireLimits)
    slot: SlotSettings = field(default_factory=SlotSettings)
    grace_s: float = setting(30.0, "seconds that running tasks have to finish when the worker is stopped")
    connect_timeout_s: float = setting(10.0, "seconds for one attempt to connect", low=0.01)
    backoff_first_s: float = setting(0.1, "seconds before the first attempt to connect again", low=0.001)
    backoff_most_s: float = setting(2.0, "longest wait between two attempts to connect", low=0.01)
    away_reminder_s: float = setting(
        600.0, "seconds after which is said again that a scheduler is away that is wanted", low=1
    )
    check_interval_s: float = setting(
        0.05, "seconds between two looks at what runs: for timeouts, reports and waiting leases", low=0.001
    )
    report_interval_s: float = setting(2.0, "seconds after which what runs is reported again", low=0.01)
    waiting_lease_s: float = setting(0.05, "seconds that a lease waits behind another before it goes back")
    prepare_s: float = setting(
        10.0, "seconds that a lease waits for its function, or for a slot process that begins nothing"
    )
    intake_bytes: int = setting(
        16 << 20, "bytes a second that a slot process is trusted to take in of large arguments", low=1
    )
    process_retry_s: float = setting(
        1.0, "seconds between two attempts to have a slot process, if none can be"
    )
    process_attempts: int = setting(
        5, "attempts in a row to have a slot process after which a worker that had none ends", low=1
    )
    interrupt_after_s: float = setting(0.02, "seconds from the stacks of a task to be ended to its interrupt")
    kill_after_s: float = setting(0.3, "seconds from the stacks of a task to be ended to its kill")
    settle_window_bytes: int = setting(
        16 << 20, "bytes of results under way to the scheduler and not acknowledged", low=1 << 16
    )
    max_held_result_bytes: int = setting(
        1 << 30, "bytes of results not acknowledged with which no further task is begun", low=1 << 16
    )
    max_function_bytes: int = setting(1 << 30, "bytes of function definitions held in memory", low=1 << 20)
    max_sessions: int = setting(10_000, "sessions at the same time", low=1)
    max_lent_per_slot: int = setting(
        64, "tasks beyond one that a slot may hold while they wait for tasks that they submitted"
    )
    max_task_connections: int = setting(
        1024, "connections to the scheduler that running tasks may have open", low=1
    )
    max_bundle_bytes: int = setting(1 << 30, "bytes of bundles of local modules held in memory", low=1 << 20)
    max_leases_per_slot: int = setting(64, "leases held for each slot, running or waiting", low=2)


@dataclass(frozen=True, kw_only=True)
class StoreSettings(Settings):
    """The settings of a client's store."""

    store_busy_s: float = setting(
        30.0, "seconds that other processes may keep a store locked before it is given up", low=0.01
    )
    store_backlog_bytes: int = setting(
        256 << 20, "bytes that wait for the store with which nothing more should be handed to it", low=1 << 16
    )
    store_commit_bytes: int = setting(
        16 << 20, "bytes after which a commit of the store takes nothing more in", low=1 << 10
    )
    store_file_bytes: int = setting(
        256 << 10, "bytes above which results in a store have files of their own", low=1 << 10, high=1 << 28
    )
    store_retry_first_s: float = setting(
        0.05, "seconds before a commit is tried again for which the store's disk had no room", low=0.001
    )
    store_retry_most_s: float = setting(2.0, "longest wait between two such attempts", low=0.001)
    store_close_s: float = setting(10.0, "seconds that closing a store waits for room on its disk")
    store_orphan_s: float = setting(
        86400.0, "age in seconds at which files that a killed process left in a store are removed", low=60
    )


@dataclass(frozen=True, kw_only=True)
class ClientSettings(Settings):
    """The settings of a client."""

    wire: WireLimits = field(default_factory=WireLimits)
    disk: StoreSettings = field(default_factory=StoreSettings)
    store: str = setting("", "the file in which results are kept on this machine; none if empty")
    connect_timeout_s: float = setting(10.0, "seconds after which connecting is given up", low=0.01)
    backoff_first_s: float = setting(0.05, "seconds before the first attempt to connect again", low=0.001)
    backoff_most_s: float = setting(0.5, "longest wait between two attempts to connect", low=0.01)
    explain_after_s: float = setting(10.0, "seconds of waiting after which is said why nothing runs", low=0.1)
    window_tasks: int = setting(1_000_000, "tasks sent and not settled", low=1)
    window_bytes: int = setting(256 << 20, "bytes of arguments sent and not settled", low=1 << 16)
    under_way_bytes: int = setting(
        8 << 20, "bytes of submits sent and not accepted by the scheduler", low=1 << 16
    )
    client_grace_s: float = setting(
        60.0, "seconds without connection after which a session is given up, until the scheduler says"
    )
    lost_after_s: float = setting(
        8.0, "seconds after which a scheduler whose host refuses connections counts as gone"
    )
    away_notice_s: float = setting(
        2.0, "seconds after which is said that a scheduler is away that remembers what it was handed"
    )
    away_reminder_s: float = setting(
        600.0, "seconds after which is said again that a scheduler is away that is wanted", low=1
    )
    away_close_s: float = setting(
        60.0, "seconds that closing a client waits for such a scheduler while tasks are open"
    )
    refused_pause_s: float = setting(0.2, "seconds before a submit that found no room is sent again")
    imap_tasks: int = setting(1000, "tasks of a Pool's imap handed in ahead of what is read", low=1)
    defined_functions: int = setting(4096, "functions that the scheduler is taken to know", low=1)
    bundle_bytes: int = setting(64 << 20, "bytes of the local modules and data that tasks need", low=1)
    bundle_files: int = setting(10_000, "files of the local modules and data that tasks need", low=1)
    bundle_check_s: float = setting(0.5, "seconds after which files of local modules are looked at again")
    max_unprinted_lines: int = setting(
        10_000, "lines of tasks that wait until what they are printed to takes them", low=1
    )
    http_body_bytes: int = setting(
        512 << 10,
        "bytes of one request to a gateway; fewer where something on the way takes fewer",
        low=16 << 10,
    )
    close_s: float = setting(5.0, "seconds that closing a client may take once its tasks have ended")
    max_runs: int = setting(16, "runs that a client has open, each by a connection of its own", low=1)
    run_taken_s: float = setting(
        3.0, "seconds for which a run is tried to be opened that another process has open, or seems to have"
    )


# --- addresses, names, folders --------------------------------------------------------------------


class Address(NamedTuple):
    """Where a scheduler listens. `str()` gives `tcp://host:port`."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp://{host}:{self.port}"


def parse_address(text: str) -> Address:
    """Read `tcp://host:port`, `host:port` or `host`; an IPv6 address stands in brackets.

    Raises:
        ConfigError: the text is no such address.

    Example:
        `parse_address("tcp://[::1]:7077")` gives `Address("::1", 7077)`.
    """
    wanted = f"{text!r} is not an address like tcp://host:{DEFAULT_PORT}"
    whole = text.strip()
    try:
        parts = urlsplit(whole if "://" in whole else f"tcp://{whole}")
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"{wanted}: {error}") from None
    if parts.scheme != "tcp":
        raise ConfigError(f"{wanted}: a scheduler is named by tcp://; only clients know others")
    host = parts.hostname or ""
    if (
        len(host.split()) != 1
        or parts.username
        or parts.path not in ("", "/")
        or parts.query
        or parts.fragment
    ):
        raise ConfigError(f"{wanted}: it has to be a host and a port, and nothing else")
    return Address(host, DEFAULT_PORT if port is None else port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`. A name other than `localhost` counts as reachable."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def is_name(name: str) -> bool:
    """Whether `name` can name an owner, a cluster or a worker, in files and on the wire."""
    return _NAME.fullmatch(name) is not None


def check_name(what: str, name: str) -> str:
    """Return `name` if `is_name`; `what` says in the error what it should have named.

    Raises:
        ConfigError: it is empty, too long, or has other signs than letters, digits and `._@+-`.
    """
    if not is_name(name):
        raise ConfigError(
            f"{name!r} cannot name {what}: 1 to 64 letters, digits or ._@+-, the first a letter or digit"
        )
    return name


def as_name(text: str) -> str:
    """`text` with what a name cannot have replaced, for names that others chose (users, hosts)."""
    kept = re.sub(r"[^A-Za-z0-9._@+-]", "-", text).lstrip("._@+-")[:64]
    return kept or "unnamed"


def state_folder(environ: Mapping[str, str] | None = None) -> Path:
    """Where what programs remember lies: `$DISTCOMP_HOME`, else `distcomp` in the user's state."""
    variables = os.environ if environ is None else environ
    if variables.get("DISTCOMP_HOME"):
        return Path(variables["DISTCOMP_HOME"]).expanduser()
    if variables.get("XDG_STATE_HOME"):
        return Path(variables["XDG_STATE_HOME"]) / "distcomp"
    home = variables.get("HOME")
    return (Path(home) if home else Path.home()) / ".local" / "state" / "distcomp"


def user_folder(environ: Mapping[str, str] | None = None) -> Path:
    """Where access files and secrets lie: `$DISTCOMP_HOME`, else `distcomp` in the user's settings."""
    variables = os.environ if environ is None else environ
    if variables.get("DISTCOMP_HOME"):
        return Path(variables["DISTCOMP_HOME"]).expanduser()
    if variables.get("XDG_CONFIG_HOME"):
        return Path(variables["XDG_CONFIG_HOME"]) / "distcomp"
    home = variables.get("HOME")
    return (Path(home) if home else Path.home()) / ".config" / "distcomp"
