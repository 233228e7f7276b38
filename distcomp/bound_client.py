"""`BoundClient`: a client with task options, and what it gathers between two turns of the loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from typing_extensions import Unpack

    from distcomp.client_session import ClientSession
    from distcomp.feeder import Cost, SizedIterable
    from distcomp.future_groups import FutureGroup
    from distcomp.futures import Future
    from distcomp.ids import FunctionId
    from distcomp.options import Options, OptionValues
    from distcomp.rows import TaskOptions
    from distcomp.task_arrays import TaskArray
    from distcomp.task_streams import TaskStream

P = ParamSpec("P")
T = TypeVar("T")


class Batch:
    """Single submits of one function with the same options, waiting for the next turn."""

    __slots__ = ("calls", "function", "group", "options")

    def __init__(
        self, function: tuple[FunctionId, str, bytes], options: TaskOptions, group: FutureGroup
    ) -> None:
        self.function = function
        self.options = options
        self.group = group
        self.calls: list[Any] = []


class BoundClient:
    """A client with task options; made by `Client.options`.

    Example:
        >>> client.options(timeout_s=5, retries=2).submit(len, "abc").result()
        3
    """

    def __init__(self, session: ClientSession, options: Options) -> None:
        self.options_given = options
        self.on_wire = options.on_wire()
        self.retry_types = options.retry_types
        self.session = session

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have `function(*args, **kwargs)` run in the cluster; see `Client.submit`."""
        return self.session.submit_with(self, function, args, kwargs)

    @overload
    def map(  # type: ignore[overload-overlap]  # what has a length is looked for first
        self, function: Callable[..., T], /, *iterables: SizedIterable, cost: Cost = None
    ) -> TaskArray[T]: ...

    @overload
    def map(self, function: Callable[..., T], /, *iterables: Iterable[Any]) -> TaskStream[T]: ...

    def map(self, function: Callable[..., T], /, *iterables: Iterable[Any], cost: Cost = None) -> Any:
        """Have `function` run for the items of `iterables`; see `Client.map`."""
        return self.session.map_with(self, function, iterables, cost)

    def options(self, **values: Unpack[OptionValues]) -> BoundClient:
        """This client with more options, or other ones; see `distcomp.options.Options`."""
        return self.session.bind(self.options_given.replace(**values))
