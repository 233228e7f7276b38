from __future__ import annotations

from hashlib import blake2b

from distcomp.core.functions import DefinitionBook
from distcomp.ids import FunctionId
from distcomp.protocol import DefineFunction


def define(blob: bytes) -> DefineFunction:
    return DefineFunction(FunctionId(blake2b(blob, digest_size=32).digest()), "f", blob)


def book_of(max_bytes: int, max_unused: int) -> DefinitionBook[DefineFunction]:
    return DefinitionBook(max_bytes, max_unused)


def test_bytes_that_are_not_what_the_id_names_are_not_believed() -> None:
    book = book_of(100, 10)
    assert book.define(FunctionId(b"x" * 32), DefineFunction(FunctionId(b"x" * 32), "f", b"other")) is None
    assert len(book) == 0


def test_a_function_can_be_used_before_it_is_defined() -> None:
    book, message = book_of(100, 10), define(b"one")
    definition = book.use(message.function)
    assert (definition.message, definition.name) == (None, "")
    assert book.define(message.function, message) is definition
    assert book.define(message.function, message) is definition
    assert (definition.name, book.held_bytes) == ("f", 3)


def test_unused_functions_go_when_there_are_too_many_bytes() -> None:
    book = book_of(5, 10)
    first, second = define(b"one"), define(b"two")
    book.release(book.use(first.function))
    book.define(first.function, first)
    book.define(second.function, second)
    assert book.get(first.function) is None
    assert book.get(second.function) is not None
    assert book.held_bytes == 3


def test_used_functions_stay_whatever_they_weigh() -> None:
    book = book_of(1, 10)
    first, second = define(b"one"), define(b"two")
    definition = book.use(first.function)
    book.define(first.function, first)
    book.define(second.function, second)
    assert book.get(first.function) is definition
    book.release(definition)
    assert book.use(first.function) is definition


def test_the_number_of_unused_functions_is_bounded() -> None:
    book = book_of(1000, 1)
    for blob in (b"one", b"two"):
        book.release(book.use(define(blob).function))
    assert len(book) == 1
