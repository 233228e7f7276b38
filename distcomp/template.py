"""The program that slot processes are forked from: single-threaded, everything imported, nothing run.

It takes orders of a fixed layout from its supervisor (see `distcomp.slot_protocol`), signals slot
processes, and reports how they end. The law of the template:

- A slot process and whatever its tasks started share a process group, and the group is killed *before*
  the process is reaped: until then its number cannot belong to anybody else.
- What left that group becomes a child of the template when its slot process ends (on Linux, where both
  adopt orphans), and is killed then: a child that is no slot process is none that may live.
- When the supervisor is gone (its end of the socket is closed), every group is killed and so ends all.
- It learns to submit tasks once a task has wanted to: that takes longer than all else it does.
- When the template is gone, slot processes are killed by the kernel, or see the end of their socket.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import importlib
import mmap
import os
import select
import signal
import socket
import sys
from contextlib import suppress
from types import ModuleType
from typing import NoReturn

from distcomp.page import Page
from distcomp.slot import run_slot
from distcomp.slot_protocol import ENDED, FORK, FORKED, LEARN, NEWS, ORDER, SIGNAL, SIGNAL_GROUP, UNFORKED

FORK_DESCRIPTORS = 5
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
CHILDREN = "/proc/self/task/{}/children"
WAKE_BYTES = 512

# Looked up before any fork: a slot must not pay for it.
_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


class Template:
    """Forks, signals and reaps slot processes.

    Args:
        control: the socket to the supervisor.
        lessons: the modules to import when it is told to.
    """

    def __init__(self, control: socket.socket, lessons: list[str]) -> None:
        self._control = control
        self._lessons = lessons
        self._pid = os.getpid()
        self._pids: dict[int, int] = {}
        self._numbers: dict[int, int] = {}
        self._wake_read, self._wake_write = os.pipe()
        for descriptor in (self._wake_read, self._wake_write):
            os.set_blocking(descriptor, False)
        signal.signal(signal.SIGCHLD, lambda _signal, _frame: None)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        if _prctl is not None:
            _prctl(PR_SET_CHILD_SUBREAPER, 1)

    def serve(self) -> None:
        """Follow orders until the supervisor is gone, then kill every slot process."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        with suppress(ConnectionError):
            while True:
                for descriptor, _ in poll.poll():
                    if descriptor == self._wake_read:
                        os.read(self._wake_read, WAKE_BYTES)
                        self._reap()
                    elif not self._follow_order():
                        raise ConnectionResetError
        self._end_all()

    def _follow_order(self) -> bool:
        data, descriptors, _, _ = socket.recv_fds(self._control, ORDER.size, FORK_DESCRIPTORS)
        if len(data) != ORDER.size:
            return False
        what, number, argument = ORDER.unpack(data)
        if what == FORK:
            self._fork(number, descriptors)
        elif what == LEARN:
            for name in self._lessons:
                importlib.import_module(name)
            gc.collect()
            gc.freeze()
        elif number in self._pids and what in (SIGNAL, SIGNAL_GROUP):
            self._kill(self._pids[number], argument, group=what == SIGNAL_GROUP)
        return True

    def _fork(self, number: int, descriptors: list[int]) -> None:
        try:
            pid = os.fork()
        except OSError as error:
            self._tell(UNFORKED, number, error.errno or errno.EAGAIN)
            pid = -1
        if pid == 0:
            self._become_slot(descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        if pid > 0:
            self._pids[number], self._numbers[pid] = pid, number
            self._tell(FORKED, number, pid)

    def _become_slot(self, descriptors: list[int]) -> NoReturn:
        """Go on as a slot process. Whatever happens, this never returns to the template's loop."""
        try:
            os.setsid()
            if _prctl is not None:
                _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
                _prctl(PR_SET_CHILD_SUBREAPER, 1)
            if os.getppid() != self._pid:
                os._exit(1)  # the template ended before the kernel knew what to do then
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._control.close()
            os.close(self._wake_read)
            os.close(self._wake_write)
            for descriptor in descriptors:
                os.set_inheritable(descriptor, False)
            channel, page, output, door, stacks = descriptors
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.close(output)
            shared = mmap.mmap(page, 0)
            os.close(page)
            sys.modules["__main__"] = ModuleType("__main__")
            sockets = socket.socket(fileno=channel), socket.socket(fileno=door)
            run_slot(*sockets, Page(memoryview(shared)), stacks)
        except BaseException:  # noqa: BLE001 - the last stop of this process
            sys.excepthook(*sys.exc_info())
        os._exit(1)

    def _reap(self) -> None:
        with suppress(ChildProcessError):
            if hasattr(os, "waitid"):
                while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                    self._kill(ended.si_pid, signal.SIGKILL, group=True)
                    self._report_end(*os.waitpid(ended.si_pid, 0))
            else:  # the system cannot say who ended without reaping it
                while (found := os.waitpid(-1, os.WNOHANG))[0]:
                    self._kill(found[0], signal.SIGKILL, group=True)
                    self._report_end(*found)
        self._end_strays()

    def _end_strays(self) -> bool:
        """Kill adopted children; says whether there were any. Their own come to us as they end."""
        strays = [pid for pid in self._children() if pid not in self._numbers]
        for pid in strays:
            self._kill(pid, signal.SIGKILL, group=False)
        return bool(strays)

    def _children(self) -> list[int]:
        try:
            with open(CHILDREN.format(self._pid)) as file:  # noqa: PTH123 - pathlib is not imported here
                return [int(word) for word in file.read().split()]
        except OSError:  # no Linux, or one that does not tell
            return []

    def _report_end(self, pid: int, status: int) -> None:
        number = self._numbers.pop(pid, None)
        if number is not None:
            del self._pids[number]
            self._tell(ENDED, number, os.waitstatus_to_exitcode(status))

    def _kill(self, pid: int, which: int, *, group: bool) -> None:
        # A child that has not made its group yet is reached by its own number; a group may be empty.
        if group:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, which)
                return
        with suppress(ProcessLookupError):
            os.kill(pid, which)

    def _tell(self, what: bytes, number: int, value: int) -> None:
        self._control.sendall(NEWS.pack(what, number, value))

    def _end_all(self) -> None:
        for pid in self._numbers:
            self._kill(pid, signal.SIGKILL, group=True)
        for pid in self._numbers:
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)
        self._numbers.clear()
        while self._end_strays():
            with suppress(ChildProcessError):
                os.waitpid(-1, 0)


def main() -> None:
    """Run as a program: its arguments are the descriptor of the control socket, and modules to learn."""
    if sys.path and not sys.path[0]:
        del sys.path[0]  # tasks do not import from wherever the worker was started
    template = Template(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])
    gc.collect()
    gc.freeze()
    template.serve()
    from distcomp.bundle_store import sweep  # noqa: PLC0415 - only a template whose worker has ended needs it

    sweep()
