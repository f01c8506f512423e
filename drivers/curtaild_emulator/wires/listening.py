"""Listening sockets for a whole farm that nothing outside the loopback can reach.

One socket on 0.0.0.0 serves every 127.x.y.z, as `getsockname()` of a connection says which address was called. It
is tied to the loopback interface; where the kernel does not allow that, each address gets its own socket.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Sequence

_LOOPBACK = ipaddress.ip_network("127.0.0.0/8")
_BACKLOG = 4096


class CannotListen(OSError):
    """A port is taken, or not permitted. The text says which and why."""


class NotPermitted(CannotListen):
    """The port is one of those that need root."""


def listen(addresses: Sequence[str], port: int, *, one_socket: bool) -> list[socket.socket]:
    """Sockets that accept calls to `addresses` at `port` (0: any free one, the same for all), from loopback only.

    Raises `CannotListen`; `ValueError` for an address outside 127.0.0.0/8.
    """
    outside = [address for address in addresses if ipaddress.ip_address(address) not in _LOOPBACK]
    if outside:
        raise ValueError(f"emulated devices live in 127.0.0.0/8 only, not at {', '.join(outside[:3])}")
    if one_socket:
        try:
            return [_tied_to_loopback(port)]
        except PermissionError:
            _check_permitted(port)  # if that is not why, SO_BINDTODEVICE was refused: a socket per address then
        except OSError as error:
            raise CannotListen(f"port {port} on 0.0.0.0: {error.strerror}") from None
    return _one_per_address(addresses, port)


def _tied_to_loopback(port: int) -> socket.socket:
    listener = _new_socket()
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo\0")
        tied = listener.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16).rstrip(b"\0")
        if tied != b"lo":
            raise PermissionError(f"the socket is tied to {tied!r}, not to the loopback")
        listener.bind(("0.0.0.0", port))
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _one_per_address(addresses: Iterable[str], port: int) -> list[socket.socket]:
    listeners: list[socket.socket] = []
    try:
        for address in addresses:
            listener = _new_socket()
            listeners.append(listener)
            listener.bind((address, port))
            listener.listen(_BACKLOG)
            port = port or listener.getsockname()[1]
    except OSError as error:
        for listener in listeners:
            listener.close()
        if isinstance(error, PermissionError):
            _check_permitted(port)
        raise CannotListen(f"port {port} on {address}: {error.strerror}") from None
    return listeners


def _new_socket() -> socket.socket:
    # asyncio spares TCP_NODELAY to sockets that do not name their protocol; gRPC's small frames then wait 40 ms each
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return listener


def _check_permitted(port: int) -> None:
    if 0 < port < _first_free_for_all():
        raise NotPermitted(f"port {port} needs root (or CAP_NET_BIND_SERVICE)") from None


def _first_free_for_all() -> int:
    """The lowest port that anybody may bind."""
    try:
        with open("/proc/sys/net/ipv4/ip_unprivileged_port_start", encoding="ascii") as setting:
            return int(setting.read())
    except (OSError, ValueError):
        return 1024
