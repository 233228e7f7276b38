"""`compute_this`: what a decorated function is, without any cluster behind it."""

from __future__ import annotations

import inspect
import pickle
import threading
from typing import TYPE_CHECKING, Any

import pytest
from overtaking import in_another_thread

from distcomp import decorator
from distcomp.client import BoundClient, Client
from distcomp.decorator import BoundCall, ComputeFunction, compute_this
from distcomp.options import Options
from distcomp.payload import FunctionCache, dump_call, dump_function, load_function, open_chunk, pack_calls

if TYPE_CHECKING:
    from collections.abc import Callable


class Outcome:
    def __init__(self, value: Any) -> None:
        self._value = value

    def result(self) -> Any:
        return self._value


class LocalClient(Client):
    """Runs what it is given at once, through the same bytes as a cluster would."""

    outlived = False

    def __init__(self) -> None:
        self.used: list[Options] = []

    def bind(self, options: Options) -> BoundClient:
        return LocalBound(self, options)

    def __repr__(self) -> str:
        return "<local client>"


class LocalBound(BoundClient):
    def __init__(self, client: LocalClient, options: Options) -> None:
        self._client: LocalClient = client
        self._options = options

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        self._client.used.append(self._options)
        task = load_function(dump_function(function, shares_path=True)[1]).function
        chunk = open_chunk(pack_calls([dump_call(args, kwargs, shares_path=True)])[0].blob)
        ((args, kwargs),) = chunk.calls(0, 1)  # type: ignore[assignment]  # the same, unpacked
        return Outcome(task(*args, **kwargs))

    def map(self, function: Callable[..., Any], /, *iterables: Any, cost: Any = None) -> Any:
        self._client.used.append(self._options)
        rows = list(zip(*iterables, strict=False))
        return sorted(rows, key=lambda row: -cost(*row)) if cost else [function(*row) for row in rows]


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> LocalClient:
    client = LocalClient()
    monkeypatch.setattr(decorator, "default_client", lambda: client)
    return client


@compute_this
def square(x: int) -> int:
    """Square a number."""
    return x * x


@compute_this(retries=2, timeout_s=60)
def add(x: int, y: int = 1, *, z: int = 0) -> int:
    return x + y + z


@compute_this()
def fact(n: int) -> int:
    return 1 if n < 2 else n * fact.local(n - 1)


class Scale:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    @compute_this(priority=3)
    def times(self, x: int) -> int:
        return self.factor * x

    @staticmethod
    @compute_this
    def twice(x: int) -> int:
        return 2 * x

    @compute_this
    @staticmethod
    def thrice(x: int) -> int:
        return 3 * x

    @compute_this
    @classmethod
    def named(cls, x: int) -> str:
        return f"{cls.__name__} {x}"

    @classmethod
    @compute_this
    def swapped(cls, x: int) -> str:
        return f"{cls.__name__} {x}"


class Stretch(Scale):
    pass


async def wait_a_moment() -> None:
    pass


def test_a_decorated_function_keeps_its_face() -> None:
    assert (square.__name__, square.__doc__, square.__module__) == ("square", "Square a number.", __name__)
    assert inspect.signature(square) == inspect.signature(square.__wrapped__)
    assert repr(square) == "<square for the cluster>"


def test_compute_submit_map_and_local(client: LocalClient) -> None:
    assert square.compute(25) == 625
    assert square.submit(3).result() == 9
    assert list(square.map(range(4))) == [0, 1, 4, 9]
    assert square.local(5) == 25
    assert client.used == [Options()] * 3


def test_below_classmethod_it_is_refused_on_every_python(client: LocalClient) -> None:
    """Until 3.12 `classmethod` passed on what it wraps as a method; since then it gives that no class."""
    swapped: Any = Stretch.swapped
    for use in (
        lambda: swapped.compute(1),
        lambda: swapped.submit(1),
        lambda: swapped.map([1]),
        lambda: swapped.options(retries=1).compute(1),
        lambda: swapped.local(1),
        lambda: swapped(1).run(),
    ):
        with pytest.raises(TypeError, match=r"write @compute_this above @classmethod for Scale\.swapped"):
            use()
    assert client.used == []


def test_calling_runs_nothing_until_it_is_said(client: LocalClient) -> None:
    call = add(1, y=2)
    assert isinstance(call, BoundCall)
    assert repr(call).startswith(
        "<add(1, y=2) has not run yet; .compute() or .submit() runs it on the cluster"
    )
    assert client.used == []
    assert (call.run(), call.compute(), call.submit().result()) == (3, 3, 3)
    assert client.used == [Options(retries=2, timeout_s=60)] * 2


@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    [
        ((), {}, r"add\(\): missing a required argument: 'x'"),
        ((1, 2, 3), {}, "too many positional arguments"),
        ((1,), {"w": 1}, "unexpected keyword argument 'w'"),
    ],
)
def test_arguments_that_do_not_fit_are_told_at_once(args: Any, kwargs: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        add(*args, **kwargs)


def test_a_long_call_is_shown_in_short() -> None:
    assert len(repr(compute_this(len)("x" * 10_000))) < 400


def test_functions_without_a_signature_are_called_all_the_same() -> None:
    assert compute_this(max)(1, 2).run() == 2


def test_options_add_up_and_leave_the_function_as_it_was(client: LocalClient) -> None:
    add.options(timeout_s=5).options(priority=1).compute(1)
    add.compute(1)
    assert client.used == [Options(retries=2, timeout_s=5, priority=1), Options(retries=2, timeout_s=60)]


def test_a_given_client_is_used(client: LocalClient) -> None:
    other = LocalClient()
    function = compute_this(client=other)(square.__wrapped__)
    assert function.compute(3) == 9
    assert function.options(retries=1).compute(3) == 9
    assert (len(other.used), len(client.used)) == (2, 0)


def test_the_default_client_is_asked_for_at_each_use(monkeypatch: pytest.MonkeyPatch) -> None:
    clients = [LocalClient(), LocalClient()]
    for each in clients:
        monkeypatch.setattr(decorator, "default_client", lambda each=each: each)
        square.compute(1)
        square.compute(2)
    assert [len(each.used) for each in clients] == [2, 2]


class OvertakenFunction(ComputeFunction[Any, Any]):
    """One that another thread uses as well, once, whenever the client was chosen."""

    @property
    def _bound(self) -> Any:
        return vars(self).get("chosen")

    @_bound.setter
    def _bound(self, chosen: Any) -> None:
        self.chosen = chosen
        if chosen is not None and threading.current_thread() is threading.main_thread():
            in_another_thread(lambda: self.compute(1))


def test_threads_with_default_clients_of_their_own_each_use_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    mine, other = clients = LocalClient(), LocalClient()
    here = threading.current_thread()
    monkeypatch.setattr(decorator, "default_client", lambda: clients[threading.current_thread() is not here])
    assert OvertakenFunction(square.__wrapped__, Options()).compute(3) == 9
    assert (len(mine.used), len(other.used)) == (1, 1)


# --- methods --------------------------------------------------------------------------------------


def test_methods_take_their_object_along(client: LocalClient) -> None:
    scale = Scale(3)
    assert scale.times.compute(2) == 6
    assert scale.times(2).compute() == 6
    assert scale.times.local(2) == 6
    assert list(scale.times.map([1, 2])) == [3, 6]
    assert scale.times.options(priority=4).compute(1) == 3
    assert Scale.twice.compute(4) == 8
    assert [options.priority for options in client.used] == [3, 3, 3, 4, 0]
    with pytest.raises(TypeError, match="too many positional arguments"):
        scale.times(1, 2)


@pytest.mark.usefixtures("client")
def test_class_and_static_methods_may_be_decorated() -> None:
    assert [Scale.thrice.compute(4), Scale(0).thrice.compute(4), Scale(0).thrice(4).run()] == [12, 12, 12]
    assert [Scale.named.compute(4), Stretch.named(4).run()] == ["Scale 4", "Stretch 4"]
    assert Stretch(0).named.options(retries=1).compute(5) == "Stretch 5"
    assert list(Scale.named.map([1, 2])) == ["Scale 1", "Scale 2"]


def test_the_cost_of_a_method_is_asked_with_the_callers_arguments(client: LocalClient) -> None:
    scale = Scale(3)
    rows: Any = scale.times.map([1, 3, 2], cost=lambda x: x)
    assert [x for _, x in rows] == [3, 2, 1]
    assert len(client.used) == 1


def test_on_the_class_a_method_is_a_function(client: LocalClient) -> None:
    assert isinstance(Scale.times, ComputeFunction)
    assert Scale.times.compute(Scale(2), 5) == 10
    assert len(client.used) == 1


# --- travel ---------------------------------------------------------------------------------------


def test_a_function_of_a_module_travels_by_name() -> None:
    assert pickle.loads(pickle.dumps(add)) is add  # noqa: S301 - our own bytes
    for thing in (square, square.__wrapped__):
        assert len(dump_function(thing, shares_path=True)[1]) < 300


@pytest.mark.parametrize("shares_path", [True, False])
def test_a_decorated_function_as_a_task_is_the_function_it_wraps(shares_path: bool) -> None:  # noqa: FBT001 - a parameter of the case
    assert load_function(dump_function(square, shares_path=shares_path)[1]).function(4) == 16
    assert load_function(dump_function(Scale(2).times, shares_path=shares_path)[1]).function(4) == 8
    assert load_function(FunctionCache(shares_path=shares_path).dump(fact)[1]).function(5) == 120


@pytest.mark.parametrize("shares_path", [True, False])
def test_tasks_may_call_decorated_functions_and_get_them(shares_path: bool) -> None:  # noqa: FBT001 - a parameter of the case
    def uses(other: Any, n: int) -> int:
        return int(fact.local(n)) + int(other.local(n)) + add.options(retries=1).local(1)

    task = load_function(dump_function(uses, shares_path=shares_path)[1]).function
    call = dump_call((square, 3), {}, shares_path=shares_path)
    ((args, _),) = open_chunk(pack_calls([call])[0].blob).calls(0, 1)
    assert task(*args) == 6 + 9 + 2


def test_a_nested_decorated_function_that_calls_itself_travels() -> None:
    @compute_this
    def count(n: int) -> int:
        return 0 if n == 0 else 1 + count.local(n - 1)

    task = load_function(dump_function(count, shares_path=True)[1]).function
    assert task(7) == 7


# --- what cannot be decorated ---------------------------------------------------------------------


def test_what_cannot_be_decorated_is_told_at_once() -> None:
    wrong: Any = 5
    with pytest.raises(TypeError, match="compute_this decorates functions, not 5"):
        compute_this(wrong)
    with pytest.raises(TypeError, match=r"wait_a_moment is a coroutine function, .* asyncio.run"):
        compute_this(wait_a_moment)
    with pytest.raises(TypeError, match=r"client must be a distcomp.Client, not 'tcp://x:1'"):
        compute_this(client="tcp://x:1")  # type: ignore[call-overload]  # that is what is tried
    with pytest.raises(ValueError, match="retries must be a whole number"):
        compute_this(retries=-1)
    options: Any = {"timeout": 5}
    with pytest.raises(TypeError, match="did you mean 'timeout_s'"):
        compute_this(**options)
