from __future__ import annotations

import pytest

from distcomp.errors import InitializerError
from distcomp.payload import function_name
from distcomp.wrapped_calls import ChunkCall, InitializedCall, StarCall


def echo(*args: object, **kwargs: object) -> object:
    return args, kwargs


def test_an_initializer_runs_once_for_all_functions_of_its_executor() -> None:
    begun: list[int] = []
    one = InitializedCall(abs, begun.append, (1,), b"one")
    two = InitializedCall(echo, begun.append, (1,), b"one")
    other = InitializedCall(abs, begun.append, (2,), b"other")
    assert (one(-1), two(1, self=2), one(-3), other(-4)) == (1, ((1,), {"self": 2}), 3, 4)
    assert begun == [1, 2]


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3)])
def test_an_initializer_that_failed_is_not_run_again(error: BaseException) -> None:
    begun: list[int] = []

    def fail() -> None:
        begun.append(1)
        raise error

    call = InitializedCall(abs, fail, (), repr(error).encode())
    with pytest.raises(InitializerError, match=type(error).__name__) as caught:
        call(-1)
    assert caught.value.__cause__ is error
    with pytest.raises(InitializerError, match=type(error).__name__):
        call(-1)
    assert begun == [1]


def test_an_initializer_whose_task_was_ended_runs_with_the_next() -> None:
    begun: list[int] = []

    def begin() -> None:
        begun.append(1)
        if len(begun) == 1:
            raise KeyboardInterrupt

    call = InitializedCall(abs, begin, (), b"ended")
    with pytest.raises(KeyboardInterrupt):
        call(-1)
    assert (call(-1), begun) == (1, [1, 1])


def test_several_calls_are_made_as_one() -> None:
    assert ChunkCall(pow)([(2, 3), (3, 2)]) == [8, 9]
    assert StarCall(pow)((2, 3)) == 8


def test_people_read_the_name_of_the_function() -> None:
    for call in (ChunkCall(echo), StarCall(echo), InitializedCall(echo, print, (), b"k")):
        assert function_name(call) == function_name(echo)
