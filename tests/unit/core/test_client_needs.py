"""Bundles as a client's machine hands them out: with each part the present one, defined once a connection."""

from __future__ import annotations

from test_client_state import AGAIN, Talk, kinds, opened

from distcomp import protocol
from distcomp.ids import NO_BUNDLE, BundleId
from distcomp.protocol import DefineBundle, MissingBundle, Submit, TasksSettled

ONE = DefineBundle(BundleId(b"1" * 32), "one", 1, b"archive one")
TWO = DefineBundle(BundleId(b"2" * 32), "two", 1, b"archive two")


def bundles(messages: list[object]) -> list[bytes]:
    return [message.bundle for message in messages if isinstance(message, Submit)]


def settle(talk: Talk, counter: int, tasks: int) -> None:
    talk.hear(TasksSettled(1, talk.array(counter), ((0, tasks, b"r"),), ()))


def test_a_bundle_is_defined_once_before_the_first_submit_that_names_it() -> None:
    talk = opened()
    talk.submit()
    talk.state.bundle = ONE
    talk.submit()
    talk.submit()
    sent = talk.turn()
    assert kinds(sent) == ["DefineFunction", "Submit", "DefineBundle", "Submit", "Submit"]
    assert bundles(sent) == [NO_BUNDLE, ONE.bundle, ONE.bundle]


def test_parts_of_one_array_have_the_bundle_of_their_time() -> None:
    talk = opened()
    talk.state.bundle = ONE
    counter = talk.submit(1, last=False)
    talk.state.bundle = TWO
    talk.state.extend(counter, 1, b"", last=False)
    talk.state.bundle = None
    talk.state.extend(counter, 1, b"", last=True)
    assert bundles(talk.turn()) == [ONE.bundle, TWO.bundle, NO_BUNDLE]


def test_after_a_reconnect_it_is_defined_again() -> None:
    talk = opened()
    talk.state.bundle = ONE
    counter = talk.submit()
    talk.turn()
    talk.drop()
    sent = talk.open(AGAIN, known=((talk.array(counter), 0),))
    assert kinds(sent) == ["DefineFunction", "DefineBundle", "Submit"]
    assert bundles(sent) == [ONE.bundle]


def test_a_missing_one_is_defined_again_while_an_array_needs_it() -> None:
    talk = opened()
    talk.state.bundle = ONE
    counter = talk.submit(2)
    talk.state.bundle = TWO
    talk.turn()
    assert talk.hear(MissingBundle(ONE.bundle)) == [ONE]
    assert talk.hear(MissingBundle(TWO.bundle)) == []
    settle(talk, counter, 2)
    assert talk.hear(MissingBundle(ONE.bundle)) == []


def test_nothing_is_held_when_all_is_settled() -> None:
    talk = opened()
    talk.state.bundle = ONE
    first, second = talk.submit(), talk.submit()
    talk.turn()
    settle(talk, first, 1)
    assert len(talk.state._needs) == 2
    settle(talk, second, 1)
    assert len(talk.state._needs) == 0


def test_few_are_taken_to_be_known() -> None:
    talk = opened(defined_functions=1)
    talk.state.bundle = ONE
    talk.submit()
    talk.turn()
    talk.submit()
    assert kinds(talk.turn()) == ["DefineFunction", "DefineBundle", "Submit"]


def test_a_lost_session_sends_no_bundle_of_its_own() -> None:
    talk = opened()
    talk.state.bundle = ONE
    talk.submit()
    talk.turn()
    talk.hear(protocol.Refused("expired", "gone"))
    assert len(talk.state._needs) == 0
