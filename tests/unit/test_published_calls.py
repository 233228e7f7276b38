from __future__ import annotations

from hashlib import blake2b

import pytest

from distcomp.published_calls import Publication, read_result

BLOB, MODULES = b"callable", b"modules"
WHOLE = Publication(
    name="square",
    version="1",
    versions=("0.1", "3.11.7", "3.0"),
    parameters=[{"name": "x", "kind": "positional_only", "required": True}],
    doc="é",
    function=blake2b(BLOB, digest_size=32).digest(),
    blob=BLOB,
    bundle=blake2b(MODULES, digest_size=32).digest(),
    bundle_name="project",
    bundle_files=1,
    modules=MODULES,
)


def test_a_publication_comes_back() -> None:
    assert Publication.from_bytes(WHOLE.to_bytes()) == WHOLE
    bare = WHOLE._replace(bundle=b"", bundle_name="", bundle_files=0, modules=b"")
    assert Publication.from_bytes(bare.to_bytes()) == bare


@pytest.mark.parametrize("cut", [0, 7, 8, 11, 12, 40, -8])
def test_one_that_is_not_whole_is_refused(cut: int) -> None:
    with pytest.raises(ValueError, match=r"publication|digest"):
        Publication.from_bytes(WHOLE.to_bytes()[:cut])


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "../x"},
        {"name": ""},
        {"version": "a/b"},
        {"blob": b"another"},
        {"modules": b"others"},
        {"versions": ("0.1", "python", "3.0")},
        {"versions": ("0.1", "3.11.7")},
        {"versions": ("0.1" * 30, "3.11.7", "3")},
        {"doc": 1},
        {"bundle_files": -1},
        {"parameters": {}},
    ],
)
def test_nonsense_is_refused(changed: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"published|digest|versions|text|count|parameters"):
        Publication.from_bytes(WHOLE._replace(**changed).to_bytes())


@pytest.mark.parametrize("data", [b"", b"x", b"p", b"p\0\0\0"])
def test_what_is_no_result_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="no result"):
        read_result(data)
