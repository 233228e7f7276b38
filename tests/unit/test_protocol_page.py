"""The page of the protocol says what the code says."""

from __future__ import annotations

import runpy
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_page_is_generated_from_the_code_as_it_is() -> None:
    page = runpy.run_path(str(DOCS / "make_protocol.py"))["page"]
    assert (DOCS / "protocol.md").read_text() == page()
