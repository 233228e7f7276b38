"""Real slot processes that import from bundles: each from its own, and what a bad one costs."""

from __future__ import annotations

import tempfile
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from test_slots import OTHER, SESSION, pool_of, run_async, start, until

from distcomp.bundle_store import BundleStore
from distcomp.errors import SlotsUnavailableError
from distcomp.payload.archive import ArchivedFile, pack_files
from distcomp.protocol import DefineBundle
from distcomp.rows import Failure

if TYPE_CHECKING:
    from test_slots import Recorder

    from distcomp.slots import SlotPool


def bundle(blob: bytes, files: int = 1) -> DefineBundle:
    return DefineBundle(blake2b(blob, digest_size=32).digest(), "project", files, blob)


def project(text: str) -> DefineBundle:
    return bundle(pack_files([ArchivedFile("bundled.py", text.encode())]))


def look() -> tuple[int, str]:
    import bundled  # noqa: PLC0415 - only slots have it

    return bundled.X, bundled.__file__


async def outcome(
    pool: SlotPool, recorder: Recorder, what: DefineBundle | None, session: bytes = SESSION
) -> Any:
    """What a task of a session and bundle makes of it, and its process, which is given back."""
    process = pool.take(session, b"", what)
    found = (await recorder.all_of(process, start(process, look, ())))[0]
    pool.give_back(process)
    return found, process


def test_each_bundle_has_processes_of_its_own() -> None:
    async def main() -> None:
        async with pool_of() as (pool, recorder):
            (first, file), one = await outcome(pool, recorder, project("X = 1"))
            (second, _), two = await outcome(pool, recorder, project("X = 2"))
            again, same = await outcome(pool, recorder, project("X = 1"))
            failed, none = await outcome(pool, recorder, None)
            assert (first, second, again) == (1, 2, (1, file))
            assert same is one
            assert len({one, two, none}) == 3
            assert (failed.kind, failed.type_name) == ("exception", "ModuleNotFoundError")

    run_async(main())


def test_sessions_share_no_folder_and_each_goes_with_its_session() -> None:
    async def main() -> None:
        async with pool_of() as (pool, recorder):
            (_, mine), process = await outcome(pool, recorder, project("X = 1"))
            (_, theirs), _ = await outcome(pool, recorder, project("X = 1"), OTHER)
            assert mine != theirs
            pool.end_session(SESSION)
            await until(lambda: not Path(mine).exists())
            assert Path(theirs).exists()  # noqa: ASYNC240 - nothing else waits
            assert process.number not in recorder.ends, "nobody is told of processes given back"

    run_async(main())
    assert list(Path(tempfile.gettempdir()).glob("distcomp-bundles-*")) == []


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (bundle(b"nonsense"), "a bundle that cannot be read"),
        (bundle(pack_files([ArchivedFile("../out.py", b"")])), "lies outside of it"),
        (bundle(pack_files([ArchivedFile(str(n), b"") for n in range(5000)])), "bundle_bytes is 1048576"),
    ],
)
def test_a_bad_bundle_fails_its_tasks_and_nothing_else(what: DefineBundle, words: str) -> None:
    async def main() -> None:
        async with pool_of(bundle_bytes=1 << 20) as (pool, recorder):
            process = pool.take(SESSION, b"", what)
            found = await recorder.all_of(process, start(process, look, (), ()))
            for failure in found.values():
                assert isinstance(failure, Failure)
                assert failure.kind == "unloadable"
                assert words in failure.text
            assert words in recorder.ready[process.number]
            assert (await outcome(pool, recorder, project("X = 1")))[0][0] == 1

    run_async(main())


def test_a_bundle_that_only_tells_states_apart_changes_no_path() -> None:
    async def main() -> None:
        async with pool_of() as (pool, recorder):
            failed, one = await outcome(pool, recorder, bundle(b"state 1", files=0))
            assert failed.type_name == "ModuleNotFoundError"
            assert (await outcome(pool, recorder, bundle(b"state 2", files=0)))[1] is not one

    run_async(main())


def test_a_worker_without_room_for_a_bundle_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    async def main() -> None:
        async with pool_of() as (pool, recorder):
            with monkeypatch.context() as patch:
                patch.setattr(BundleStore, "enter", full)
                with pytest.raises(SlotsUnavailableError, match="No space left"):
                    pool.take(SESSION, b"", project("X = 1"))
            assert (await outcome(pool, recorder, project("X = 1")))[0][0] == 1

    run_async(main())
