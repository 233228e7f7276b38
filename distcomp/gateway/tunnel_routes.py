"""What requests do with tunnels; see `distcomp.gateway.tunnels`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response, StreamingResponse

from distcomp.gateway.bodies import pieces
from distcomp.gateway.problems import Problem
from distcomp.gateway.shapes import JSON, OCTETS
from distcomp.gateway.tunnels import Tunnel, Tunnels
from distcomp.protocol import PROTOCOL
from distcomp.wire import MAX_FRAME_BYTES

if TYPE_CHECKING:
    from distcomp.gateway.calls import Call
    from distcomp.gateway.doors import Doors
    from distcomp.gateway_settings import GatewaySettings

_UNBUFFERED = {"X-Accel-Buffering": "no", "Cache-Control": "no-store, no-transform"}
"""Tells proxies to pass on what comes as it comes."""


class TunnelRoutes:
    """Operations on tunnels.

    Args:
        settings: of the gateway.
        doors: the ways to its scheduler.
    """

    def __init__(self, settings: GatewaySettings, doors: Doors) -> None:
        self._settings = settings
        self._doors = doors
        self._tunnels = Tunnels(settings)

    def stop(self) -> None:
        """End all tunnels."""
        self._tunnels.close("the gateway was stopped")

    async def open_tunnel(self, call: Call) -> Response:
        """Connect to the scheduler."""
        if call.body["protocol"] != PROTOCOL:
            raise Problem(
                "conflict",
                f"this gateway speaks protocol {PROTOCOL}, not {call.body['protocol']}: "
                "use the same distcomp version on both sides",
            )
        access = self._doors.find("client", call.user.owner)
        tunnel = await self._tunnels.open(call.user, access)
        settings = self._settings
        body = {
            "tunnel": tunnel.id,
            "protocol": PROTOCOL,
            "owner": call.user.owner,
            "cluster": self._doors.cluster_name,
            "cluster_id": self._doors.cluster_id.hex(),
            "window_bytes": settings.tunnel_window_bytes,
            "max_frame_bytes": MAX_FRAME_BYTES,
            "idle_s": settings.tunnel_idle_s,
            "keepalive_s": settings.tunnel_keepalive_s,
        }
        return JSONResponse(body, 201)

    async def up(self, call: Call) -> Response:
        """Pass on what comes, as it comes."""
        tunnel = self._find(call)
        offset = call.values["offset"]
        if call.values["seen"] is not None:
            tunnel.confirm(call.values["seen"])
        with tunnel.visit():
            async for data in pieces(call.request, self._settings):
                tunnel.take(offset, data)
                offset += len(data)
                await tunnel.room()
        return Response(b'{"offset":%d}' % tunnel.received, media_type=JSON)

    async def down(self, call: Call) -> Response:
        """Give what comes from the scheduler, without end."""
        tunnel = self._find(call)
        tunnel.check_offset(call.values["offset"])
        return _Down(tunnel, call.values["offset"])

    async def close_tunnel(self, call: Call) -> Response:
        """End a tunnel at its client's wish."""
        self._find(call).close("its client closed it")
        return Response(status_code=204)

    def _find(self, call: Call) -> Tunnel:
        return self._tunnels.find(call.values["tunnel"], call.user)


class _Down(StreamingResponse):
    """A response that lasts as long as its tunnel; who holds it counts as being here."""

    def __init__(self, tunnel: Tunnel, offset: int) -> None:
        super().__init__(tunnel.pieces(offset), headers=_UNBUFFERED, media_type=OCTETS)
        self._tunnel = tunnel

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        with self._tunnel.visit():
            await super().__call__(scope, receive, send)
