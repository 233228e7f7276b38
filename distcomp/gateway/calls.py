"""A request that has passed all that is checked before anything is done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

    from distcomp.gateway.tokens import BearerToken


class Call(NamedTuple):
    """A request that may be carried out.

    Attributes:
        request: as it came.
        token: who asks; None where nobody has to say.
        values: the parameters of the path, the query and the headers, typed; None where not given.
        body: the JSON body, checked; None if there is none.
    """

    request: Request
    token: BearerToken | None
    values: Mapping[str, Any]
    body: Any

    @property
    def user(self) -> BearerToken:
        """Who asks, where somebody has to."""
        assert self.token is not None  # noqa: S101 - the guard has seen to it
        return self.token
