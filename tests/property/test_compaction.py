"""A journal that is compacted at any moment, and cut at any record's end, says what the books said."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import rule
from test_remembering import RememberingMachine

from distcomp.core.image import Image
from distcomp.records import CompactionBegan, unpack


class CompactingMachine(RememberingMachine):
    """One compaction after another beside everything else, a few records a turn.

    What is before a compaction goes when that has come to its end and is durable, as in a real journal. What
    is large for a journal, and that is little here, is prepared whenever the journal likes.
    """

    def begin_state(self) -> None:
        super().begin_state()
        self.state.books.settings = replace(self.settings_of_state, restate_objects=5)
        self.compacted = False
        self.large_bytes = 0.0
        self.opened_at = -1

    def take_effects(self) -> Any:
        was_compacting = self.state.is_compacting
        effects = super().take_effects()
        if effects.records and type(effects.records[0]) is CompactionBegan:
            self.opened_at = len(self.journal) - 1
        if was_compacting and not self.state.is_compacting:
            self.journal = self.journal[self.opened_at :]
            self.compacted = True
        return effects

    def image(self) -> Image:
        image = Image(compacted=self.compacted)
        for packed in self.journal:
            image.replay(unpack(packed))
        image.end()
        return image

    def turn(self) -> None:
        super().turn()
        if not self.state.is_compacting:
            self.state.begin_compaction(self.now, large_bytes=self.large_bytes)

    @rule(objects=st.sampled_from([1, 3, 1000]))
    def pace_changes(self, objects: int) -> None:
        """So many records of what lives are said in a turn."""
        self.state.books.settings = replace(self.settings_of_state, restate_objects=objects)

    @rule(large_bytes=st.sampled_from([0.0, math.inf]))
    def journal_changes(self, large_bytes: float) -> None:
        """The next compaction has other blobs prepared."""
        self.large_bytes = large_bytes

    @rule()
    def blobs_are_prepared(self) -> None:
        self.state.prepared()

    @rule(turns=st.integers(1, 10))
    def nothing_happens(self, turns: int) -> None:
        for _ in range(turns):
            self.state.prepared()
            self.turn()


TestCompaction = CompactingMachine.TestCase
TestCompaction.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
