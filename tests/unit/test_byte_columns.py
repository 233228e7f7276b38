from __future__ import annotations

import pickle

import pytest

from distcomp import byte_columns
from distcomp.errors import UnloadableTaskError
from distcomp.payload import open_chunk, open_results, pack_results


@pytest.mark.parametrize("items", [[], [b""], [b"a"], [b"", b"bc", b"d" * 70_000]])
def test_a_column_comes_back(items: list[bytes]) -> None:
    blob = byte_columns.write(items)
    assert byte_columns.is_one(blob)
    assert byte_columns.read(blob) == items


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"dcbytes1",
        byte_columns.write([b"ab"])[:-1],
        byte_columns.write([b"ab"]) + b"c",
        b"dcbytes1\xff\xff\xff\xff",
        b"dcbytes1\0\0\0\2\0\0\0\1",
    ],
)
def test_what_is_not_whole_is_refused(blob: bytes) -> None:
    with pytest.raises(ValueError, match="column of byte strings"):
        byte_columns.read(blob)


def test_a_chunk_can_be_made_without_pickling() -> None:
    chunk = open_chunk(byte_columns.write([b"a", b"b", b"c"]))
    assert chunk.count == 3
    assert [list(args) for args, _ in chunk.calls(1, 3)] == [[b"b"], [b"c"]]
    with pytest.raises(UnloadableTaskError, match="not whole"):
        open_chunk(byte_columns.write([b"a"])[:-1])


def test_results_that_are_bytes_can_be_read_without_unpickling() -> None:
    (packed,) = pack_results([b"a", b"bc"])
    assert byte_columns.read(packed.blob) == [b"a", b"bc"]
    assert list(open_results(packed.blob)) == [b"a", b"bc"]
    assert open_results(packed.blob)[-1] == b"bc"
    with pytest.raises(UnloadableTaskError, match="not whole"):
        open_results(packed.blob[:-1])


def test_other_results_stay_pickles() -> None:
    for values in ([b"a", "b"], ["a"], []):
        for packed in pack_results(values):
            assert not byte_columns.is_one(packed.blob)
            assert pickle.loads(packed.blob)[0] == values  # noqa: S301 - ours
