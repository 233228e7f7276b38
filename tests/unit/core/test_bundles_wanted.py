"""Bundles in the scheduler: asked for, verified, sent to each worker once, kept while they are needed."""

from __future__ import annotations

from hashlib import blake2b

from scheduler_world import SchedulerWorld

from distcomp.protocol import DefineBundle, ExplainWait, MissingBundle, Refused, WaitExplained
from distcomp.worker_protocol import GrantLease


def define(blob: bytes) -> DefineBundle:
    return DefineBundle(blake2b(blob, digest_size=32).digest(), "project", 1, blob)


ONE, TWO = define(b"one"), define(b"two")


def test_a_worker_is_told_once_and_before_the_first_lease_that_needs_it() -> None:
    world = SchedulerWorld()
    client, worker = world.client(), world.worker()
    world.say(client, ONE)
    world.submit(client, 0, 1, bundle=ONE.bundle)
    told = [message for message in world.sent[worker] if type(message) in {DefineBundle, GrantLease}]
    assert told[0] == ONE
    assert told[1].bundle == ONE.bundle
    world.settle(worker, told[1].token, (0, 1))
    world.submit(client, 1, 1, bundle=ONE.bundle)
    assert world.got(worker, DefineBundle) == []
    assert world.grants(worker)[0].bundle == ONE.bundle


def test_what_needs_none_names_none() -> None:
    world = SchedulerWorld()
    client, worker = world.client(), world.worker()
    world.submit(client, 0, 1)
    assert world.got(worker, DefineBundle) == []
    assert world.grants(worker)[0].bundle == b""


def test_a_bundle_that_is_not_here_is_asked_for_and_waited_for() -> None:
    world = SchedulerWorld()
    client, worker = world.client(), world.worker()
    world.submit(client, 0, 1, bundle=ONE.bundle)
    assert world.got(client, MissingBundle) == [MissingBundle(ONE.bundle)]
    assert world.grants(worker) == []
    world.say(client, ExplainWait(1))
    assert "a bundle of local modules" in world.got(client, WaitExplained)[0].text
    world.say(client, ONE)
    assert len(world.grants(worker)) == 1


def test_an_array_that_waits_in_line_leaves_it_for_a_later_chunks_bundle() -> None:
    world = SchedulerWorld()
    client = world.client()
    world.say(client, ONE)
    world.submit(client, 0, 2, bundle=ONE.bundle, last=False)
    world.submit(client, 0, 2, start=2, bundle=TWO.bundle)
    worker = world.worker(4)
    assert world.grants(worker) == []
    world.say(client, TWO)
    granted = {grant.bundle for grant in world.grants(worker)}
    assert granted == {ONE.bundle, TWO.bundle}


def test_bytes_that_are_not_what_the_digest_says_end_the_connection() -> None:
    world = SchedulerWorld()
    client = world.client()
    world.say(client, ONE._replace(blob=b"other"))
    assert "a bundle that is not what its digest says" in world.got(client, Refused)[0].text
    assert world.books.counts.nonsense == 1


def test_a_client_that_comes_back_is_asked_again() -> None:
    world = SchedulerWorld()
    client, worker = world.client(), world.worker()
    world.say(client, TWO)
    world.submit(client, 0, 1, bundle=ONE.bundle, last=False)
    world.submit(client, 0, 1, start=1, bundle=TWO.bundle)
    world.cut(client)
    again = world.connect("client", "ann")
    world.open(again, session=client, resumes=True)
    assert world.got(again, MissingBundle) == [MissingBundle(ONE.bundle)]
    world.say(again, ONE)
    assert world.grants(worker)[0].bundle == ONE.bundle


def test_a_worker_that_comes_back_is_told_again() -> None:
    world = SchedulerWorld()
    client, worker = world.client(), world.worker(name=b"w" * 16)
    world.say(client, ONE)
    world.submit(client, 0, 1, bundle=ONE.bundle)
    (grant,) = world.grants(worker)
    world.cut(worker)
    again = world.connect("worker")
    world.register(again, 1, name=b"w" * 16)
    assert world.got(again, DefineBundle) == [ONE]
    assert [each.token != grant.token for each in world.grants(again)] == [True]


def test_a_worker_that_let_go_of_a_bundle_gets_it_again() -> None:
    world = SchedulerWorld()
    client, worker = world.client(), world.worker()
    world.say(client, ONE)
    world.say(worker, MissingBundle(ONE.bundle), MissingBundle(TWO.bundle))
    assert world.got(worker, DefineBundle) == [ONE]


def test_a_worker_is_not_taken_to_know_more_bundles_than_are_remembered() -> None:
    world = SchedulerWorld(max_unused_functions=1)
    client, worker = world.client(), world.worker()
    for array, bundle in enumerate((ONE, TWO, ONE)):
        world.say(client, bundle)
        world.submit(client, array, 1, bundle=bundle.bundle)
        assert world.got(worker, DefineBundle) == [bundle]
        (grant,) = world.grants(worker)
        world.settle(worker, grant.token, (0, 1))


def test_a_bundle_is_kept_while_an_array_needs_it_and_let_go_of_afterwards() -> None:
    world = SchedulerWorld(max_bundle_bytes=1 << 20)
    large = define(b"x" * (1 << 20))
    client, worker = world.client(), world.worker()
    world.say(client, large)
    world.teach(worker, client, 0.001)
    world.submit(client, 0, 2, bundle=large.bundle)
    (grant,) = world.grants(worker)
    world.say(client, TWO)
    assert world.books.bundles.get(large.bundle) is not None
    world.cancel(client, 0)
    world.give_back(worker, grant.token, (0, 2), reason="cancelled")
    world.say(client, TWO)
    assert world.books.bundles.get(large.bundle) is None
    assert world.books.bundles.held_bytes == len(TWO.blob)


def test_a_cancelled_array_waits_for_its_bundle_no_more() -> None:
    world = SchedulerWorld()
    client = world.client()
    world.submit(client, 0, 2, bundle=ONE.bundle)
    world.cancel(client, 0)
    world.say(client, ONE)
    assert world.books.sessions[client.to_bytes(16, "big")].arrays == {}
