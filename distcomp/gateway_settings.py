"""The settings of an HTTP gateway, and where it says how its own user reaches it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from distcomp.config import Settings, WireLimits, setting, user_folder

if TYPE_CHECKING:
    from pathlib import Path

DEFAULT_GATEWAY_PORT = 8077


@dataclass(frozen=True, kw_only=True)
class GatewaySettings(Settings):
    """The settings of an HTTP gateway, and where it says how its own user reaches it."""

    wire: WireLimits = field(default_factory=WireLimits)
    gateway_host: str = setting("127.0.0.1", "the address to listen at for HTTP")
    gateway_port: int = setting(
        DEFAULT_GATEWAY_PORT, "the port to listen at for HTTP; 0 takes a free one", high=65535
    )
    gateway_names: str = setting(
        "", "further host names by which requests may name the gateway, with commas in between"
    )
    gateway_origins: str = setting(
        "", "origins of other pages whose scripts may use the gateway, with commas in between"
    )
    root_path: str = setting("", "path in front of all others, where a proxy puts the gateway below one")
    tls_certificate: str = setting("", "file with the certificate and its chain, for HTTPS")
    tls_key: str = setting("", "file with the certificate's key")
    behind_proxy: bool = setting(False, "listen beyond loopback without TLS, as a proxy of ours provides it")
    connect_timeout_s: float = setting(10.0, "seconds after which connecting is given up", low=0.01)
    max_http_connections: int = setting(2_000, "HTTP connections at the same time", low=1)
    max_head_bytes: int = setting(64 << 10, "bytes of a request's head", low=1 << 10)
    head_s: float = setting(10.0, "seconds that a request's head may take to arrive", low=0.01)
    idle_connection_s: float = setting(75.0, "seconds that an HTTP connection may be without request")
    max_body_bytes: int = setting(16 << 20, "bytes of a request's JSON", low=1 << 10)
    max_upload_bytes: int = setting(256 << 20, "bytes of a published function with its modules", low=1 << 10)
    body_gap_s: float = setting(20.0, "seconds that the next bytes of a request may take", low=0.01)
    body_bytes_per_s: int = setting(
        1024, "bytes a second that a request's body needs after its first moments", low=1
    )
    max_requests: int = setting(64, "requests of one token under way at the same time", low=1)
    requests_per_s: float = setting(500.0, "requests of one token a second", low=0.1)
    refusals_per_s: float = setting(50.0, "requests without a valid token that are answered, a second", low=1)
    max_streams: int = setting(64, "event streams of one token at the same time", low=1)
    max_tunnels: int = setting(64, "tunnels of one token at the same time", low=1)
    tunnel_window_bytes: int = setting(
        8 << 20, "bytes towards a tunnel's client that it has not confirmed", low=1 << 16
    )
    tunnel_idle_s: float = setting(15.0, "seconds that a tunnel waits for its client to come back", low=0.01)
    tunnel_yield_s: float = setting(
        2.0, "seconds without client after which a tunnel makes room for another one of its token", low=0.01
    )
    tunnel_keepalive_s: float = setting(15.0, "seconds after which a quiet stream says something", low=0.01)
    max_array_tasks: int = setting(10_000, "tasks handed in by one request", low=1)
    max_open_tasks: int = setting(100_000, "tasks of one owner that have not ended", low=1)
    max_wait_s: float = setting(60.0, "seconds that a request may wait for a result")
    max_publications: int = setting(10_000, "published functions, versions counted one by one", low=1)
    max_kept_bytes: int = setting(
        8 << 30, "bytes of published functions, arguments and results kept", low=1 << 20
    )
    task_retention_s: float = setting(
        7 * 86400.0, "seconds for which tasks that have ended are kept with their results", low=1
    )


def gateway_folder(cluster_name: str, cluster_id: bytes, folder: Path | None = None) -> Path:
    """Where the gateways of a cluster keep what is theirs; each of one name has its own."""
    return (folder or user_folder()) / "gateways" / f"{cluster_name}-{cluster_id.hex()[:16]}"


def gateway_file(cluster_name: str, cluster_id: bytes, folder: Path | None = None) -> Path:
    """Where a running gateway says of which cluster it is, and how its own user reaches it, with a token."""
    return gateway_folder(cluster_name, cluster_id, folder) / "gateway.json"
