"""What went wrong, for people and programs: `application/problem+json`, RFC 9457."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse

if TYPE_CHECKING:
    from collections.abc import Mapping

MEDIA_TYPE = "application/problem+json"

TITLES = {
    "bad-request": (400, "The request cannot be understood"),
    "no-token": (401, "A valid bearer token is needed"),
    "forbidden": (403, "This token may not do that"),
    "foreign-host": (403, "The gateway is not known by that name"),
    "foreign-origin": (403, "Pages of that origin may not use the gateway"),
    "not-found": (404, "There is no such thing"),
    "method-not-allowed": (405, "That is not done here"),
    "conflict": (409, "That does not fit what is there"),
    "gone": (410, "It is over"),
    "too-large": (413, "That is too large"),
    "unsupported-media-type": (415, "The body has to be of another type"),
    "invalid": (422, "The request says something that cannot be done"),
    "too-many": (429, "Too much at once"),
    "slow": (408, "The request took too long to arrive"),
    "unavailable": (503, "The scheduler cannot be reached"),
    "full": (507, "There is no room"),
}
"""Every kind of problem: its HTTP status and its title."""


class Problem(Exception):  # noqa: N818 - it is an answer, not an accident
    """An answer that says what went wrong and what to do.

    Args:
        kind: one of `TITLES`.
        detail: what happened and what to do, in a sentence.
        headers: to send besides.
        **more: further members of the answer.

    Example:
        `raise Problem("not-found", "there is no task 'x'; ids come from POST …/tasks")`
    """

    def __init__(
        self, kind: str, detail: str, *, headers: Mapping[str, str] | None = None, **more: Any
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.status, self.title = TITLES[kind]
        self.headers = dict(headers or {})
        self.detail = detail
        self.more = more

    def response(self) -> JSONResponse:
        """The answer."""
        body = {
            "type": f"urn:distcomp:problem:{self.kind}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            **self.more,
        }
        return JSONResponse(body, self.status, self.headers, MEDIA_TYPE)


def busy(detail: str, after_s: float = 1.0) -> Problem:
    """Too much at once: come again after so many seconds."""
    return Problem("too-many", detail, headers={"Retry-After": str(max(1, round(after_s)))})
