from __future__ import annotations

import re

import pytest

from distcomp.absence_words import words_of
from distcomp.core.client_absence import Absence

WHERE = "the scheduler at tcp://a:7077"


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (Absence("away", 8.0, 1, 0, 0, 60.0), "1 task is safe in its journal. Start"),
        (Absence("away", 8.0, 1000, 2, 1, 60.0), "1,002 tasks are safe in its journal, 1 task waits here"),
        (Absence("away", 8.0, 0, 0, 2, 60.0), ": 2 tasks wait here to be sent. Start it again"),
        (
            Absence("left", 8.0, 2, 0, 0, 60.0),
            ": 2 tasks are left there, and cancelled when it has been back",
        ),
        (Absence("left", 8.0, 0, 1, 0, 60.0), "for: 1 task is left there, and goes on: detached"),
        (
            Absence("left", 8.0, 1, 0, 1, 9.5),
            "been back for 9.5 s; 1 task is not acknowledged by it, and may be lost",
        ),
    ],
)
def test_an_absence_in_words(told: Absence, words: str) -> None:
    said = words_of(told, WHERE, 12.0)
    assert re.match(re.escape(WHERE) + r" has been away since \d\d:\d\d:\d\d", said)
    assert words in said


def test_the_end_of_an_absence_in_words() -> None:
    assert words_of(Absence("back", 8.0, 0, 0, 0, 60.0), WHERE, 12.3) == f"{WHERE} is back after 4 s"
