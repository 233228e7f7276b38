"""`compute_this`: a function that runs on the cluster by the words one adds to its name."""

from __future__ import annotations

import functools
import inspect
import itertools
import sys
from collections.abc import Sized
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from distcomp.client import Client
from distcomp.default_client import default_client
from distcomp.options import Options
from distcomp.payload import Constant, check_runnable, stands_under_its_name, travels_as_function

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from typing_extensions import Self, Unpack

    from distcomp.client import BoundClient
    from distcomp.feeder import Cost, SizedIterable
    from distcomp.futures import Future
    from distcomp.options import OptionValues
    from distcomp.task_arrays import TaskArray
    from distcomp.task_streams import TaskStream

__all__ = ["BoundCall", "ComputeFunction", "compute_this"]

P = ParamSpec("P")
Q = ParamSpec("Q")
S = TypeVar("S")
T = TypeVar("T")

MAX_SHOWN_LENGTH = 200


class BoundCall(Generic[T]):
    """A call of a decorated function that has not run yet, with its arguments; made by `func(...)`.

    Example:
        >>> call = square(2)
        >>> call, call.compute()
        (<square(2) has not run yet; ...>, 4)
    """

    def __init__(
        self, function: ComputeFunction[Any, T], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self.function = function
        self.args = args
        self.kwargs = kwargs

    def run(self) -> T:
        """Run it in this process, and give its result."""
        return self.function.local(*self.args, **self.kwargs)

    def compute(self) -> T:
        """Run it on the cluster, wait, and give its result."""
        return self.function.compute(*self.args, **self.kwargs)

    def submit(self) -> Future[T]:
        """Have it run on the cluster, and give the future of its result."""
        return self.function.submit(*self.args, **self.kwargs)

    def __repr__(self) -> str:
        shown = [*map(repr, self.args), *(f"{name}={value!r}" for name, value in self.kwargs.items())]
        text = f"{self.function.__name__}({', '.join(shown)})"
        if len(text) > MAX_SHOWN_LENGTH:
            text = f"{text[:MAX_SHOWN_LENGTH]}…)"
        return f"<{text} has not run yet; .compute() or .submit() runs it on the cluster, .run() here>"


@travels_as_function
class ComputeFunction(Generic[P, T]):
    """A decorated function; made by `compute_this`.

    Calling it runs nothing: it gives a `BoundCall`. It travels to tasks like the function it wraps;
    inside of a task, `local` calls that function.

    Args:
        function: what to run.
        options: how its tasks are to be treated.
        client: the client to use; None takes the default client at each use.
        given: arguments that come before the caller's: the object of a method.
        kind: `staticmethod` or `classmethod` for what such a one was made of.

    Example:
        >>> def square(x):
        ...     return x * x
        >>> list(compute_this(square).options(retries=2).map([1, 2]))
        [1, 4]
    """

    __name__: str
    __qualname__: str
    __wrapped__: Callable[..., T]

    def __init__(
        self,
        function: Callable[..., T],
        options: Options,
        client: Client | None = None,
        given: tuple[Any, ...] = (),
        kind: type | None = None,
    ) -> None:
        functools.update_wrapper(self, function)
        if not hasattr(self, "__name__"):  # callable objects need not have one
            self.__name__ = self.__qualname__ = type(function).__name__
        self._options = options
        self._client = client
        self._given = given
        self._kind = kind
        self._bound: tuple[Client, BoundClient] | None = None
        self._is_well_placed = False

    # --- on the cluster ---------------------------------------------------------------------------

    def compute(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run the function on the cluster, wait, and give its result.

        Returns:
            What the function returns.

        Raises:
            Exception: what the function raises; its `__cause__` shows where it was raised.
            TaskError: the task ended without an exception of its own; see `distcomp.errors`.
            UnpicklableError: something cannot be pickled; the text names the path to it.

        Example:
            >>> square.compute(25)
            625
        """
        return self._use_client().submit(self.__wrapped__, *self._given, *args, **kwargs).result()

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have the function run on the cluster; see `Client.submit`.

        Example:
            >>> square.submit(3).result()
            9
        """
        return self._use_client().submit(self.__wrapped__, *self._given, *args, **kwargs)

    @overload
    def map(  # type: ignore[overload-overlap]  # what has a length is looked for first
        self, *iterables: SizedIterable, cost: Cost = None
    ) -> TaskArray[T]: ...

    @overload
    def map(self, *iterables: Iterable[Any]) -> TaskStream[T]: ...

    def map(self, *iterables: Iterable[Any], cost: Cost = None) -> Any:
        """Have the function run for the items of `iterables`; see `Client.map`.

        Example:
            >>> list(square.map(range(3)))
            [0, 1, 4]
        """
        sized = [len(each) for each in iterables if isinstance(each, Sized)]
        is_stream = len(sized) < len(iterables)
        tasks = min(sized, default=0)
        given = [itertools.repeat(value) if is_stream else Constant(value, tasks) for value in self._given]
        if given and callable(cost):
            cost = _behind(cost, len(given))
        return self._use_client().map(self.__wrapped__, *(*given, *iterables), cost=cost)  # type: ignore[call-overload]  # one of them

    def options(self, **values: Unpack[OptionValues]) -> ComputeFunction[P, T]:
        """This function with other options for its tasks; see `distcomp.options.Options`.

        Example:
            >>> square.options(timeout_s=5).compute(3)
            9
        """
        options = self._options.replace(**values)
        return ComputeFunction(self.__wrapped__, options, self._client, self._given, self._kind)

    # --- here -------------------------------------------------------------------------------------

    def local(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run the function in this process, without any cluster.

        Example:
            >>> square.local(3)
            9
        """
        self._check_place()
        return self.__wrapped__(*self._given, *args, **kwargs)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> BoundCall[T]:
        """Give a call that has not run yet.

        Raises:
            TypeError: the function does not take these arguments.
        """
        try:
            inspect.signature(self.__wrapped__).bind(*self._given, *args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self.__name__}(): {error}") from None
        except ValueError:  # some built-in functions do not tell their signature
            pass
        return BoundCall(self, args, kwargs)

    def as_task(self) -> Callable[..., T]:
        """What runs where somebody hands this object itself to a client."""
        return functools.partial(self.__wrapped__, *self._given) if self._given else self.__wrapped__

    def _use_client(self) -> BoundClient:
        client = self._client
        if client is None or client.outlived:  # made by a task before, in a module of its own
            client = default_client()
        bound = self._bound  # once: a thread with another client may be here, too
        if bound is None or bound[0] is not client:
            self._check_place()
            bound = self._bound = (client, client.bind(self._options))
        return bound[1]

    def _check_place(self) -> None:
        """Raise if it stands below `@classmethod`, which since Python 3.13 gives what it wraps no class.

        It is looked for under its name, so that this stays unsaid of a class that is local to a function.
        """
        if self._is_well_placed:
            return
        *path, name = self.__qualname__.split(".")
        holder: Any = sys.modules.get(self.__module__)
        for part in path:
            holder = getattr(holder, part, None)
        stands = vars(holder).get(name) if isinstance(holder, type) else None
        if isinstance(stands, classmethod) and isinstance(stands.__func__, ComputeFunction):
            raise TypeError(f"write @compute_this above @classmethod for {self.__qualname__}, not below it")
        self._is_well_placed = True

    # --- as an attribute, as a value --------------------------------------------------------------

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> Self: ...
    @overload
    def __get__(
        self: ComputeFunction[Concatenate[S, Q], T], instance: S, owner: type | None = None
    ) -> ComputeFunction[Q, T]: ...
    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """The function itself on a class; on an object, the function with that object given."""
        given = owner if self._kind is classmethod else instance
        if given is None or self._kind is staticmethod:
            return self
        return ComputeFunction(self.__wrapped__, self._options, self._client, (*self._given, given))

    def take_apart(self) -> tuple[Any, ...]:
        """How to make this object again where it cannot be found by its name."""
        return ComputeFunction, (self.__wrapped__, self._options, None, self._given, self._kind)

    def __reduce__(self) -> str | tuple[Any, ...]:
        return self.__qualname__ if stands_under_its_name(self) else self.take_apart()

    def __repr__(self) -> str:
        return f"<{self.__qualname__} for the cluster>"


def _behind(cost: Callable[..., Any], given: int) -> Callable[..., Any]:
    """A cost of all arguments that looks at the caller's only."""
    return lambda *args: cost(*args[given:])


@overload
def compute_this(function: Callable[P, T], /) -> ComputeFunction[P, T]: ...
@overload
def compute_this(
    *, client: Client | None = None, **options: Unpack[OptionValues]
) -> Callable[[Callable[P, T]], ComputeFunction[P, T]]: ...
def compute_this(function: Any = None, /, *, client: Client | None = None, **options: Any) -> Any:
    """Let a function run on the cluster: `func.compute(...)`, `func.submit(...)`, `func.map(...)`.

    Used as a decorator, with or without parentheses, above `@classmethod` and `@staticmethod`. Nothing is
    connected or started before first use.

    Args:
        function: what to decorate.
        client: the client to use; by default the one of `distcomp.connect`, or one found at first use.
        **options: how its tasks are to be treated; see `distcomp.options.Options`.

    Returns:
        The decorated function.

    Raises:
        TypeError: it is no function, or an option's name or type is wrong.
        ValueError: an option's value is impossible.

    Example:
        >>> @compute_this(retries=2)
        ... def square(x):
        ...     return x * x
        >>> square.local(3)
        9
    """
    if client is not None and not isinstance(client, Client):
        raise TypeError(f"client must be a distcomp.Client, not {client!r:.80}")
    checked = Options().replace(**options)
    if function is None:
        return lambda function: _decorated(function, checked, client)
    return _decorated(function, checked, client)


def _decorated(function: Any, options: Options, client: Client | None) -> ComputeFunction[Any, Any]:
    kind = type(function) if isinstance(function, staticmethod | classmethod) else None
    function = function.__func__ if kind else function
    if not callable(function):
        raise TypeError(f"compute_this decorates functions, not {function!r:.80}; options go by name")
    check_runnable(function)
    return ComputeFunction(function, options, client, kind=kind)
