"""Who may speak to the VTN: OAuth 2 client credentials (RFC 6749, section 4.4) for bearer tokens that expire."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from curtaild.clock import Clock
from curtaild_drivers.contract import Seconds

MOST_TOKENS = 10_000
"""Alive at once; the oldest gives way."""


class Role(Enum):
    """What a client is, and the scopes of the OpenAPI definition that its tokens carry.

    `read_all` stands at the notifiers, which VENs are told to ask (User Guide 6.3.2): here everybody has it, and what
    is the business logic's alone asks for `read_bl`.
    """

    BUSINESS_LOGIC = (
        "read_all",
        "read_bl",
        "read_targets",
        "read_ven_objects",
        "write_programs",
        "write_events",
        "write_subscriptions",
        "write_vens",
    )
    VEN = ("read_all", "read_targets", "read_ven_objects", "write_reports", "write_subscriptions", "write_vens")

    @property
    def scopes(self) -> frozenset[str]:
        return frozenset(self.value)


@dataclass(frozen=True, slots=True)
class Client:
    """One set of credentials."""

    client_id: str
    secret: str = field(repr=False)
    role: Role


class NotAdmitted(Exception):
    """Why no token is given: `error` as RFC 6749 section 5.2 names it, with its HTTP status."""

    def __init__(self, error: str, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.error = error
        self.reason = reason
        self.status = status


class Tokens:
    """Gives out tokens that hold for `lifetime_s`, and knows them again."""

    def __init__(self, clients: Iterable[Client], clock: Clock, lifetime_s: Seconds) -> None:
        self._clients = {client.client_id: client for client in clients}
        self._clock = clock
        self.lifetime_s = lifetime_s
        self._alive: dict[str, tuple[Client, Seconds]] = {}

    def give(self, grant_type: str | None, client_id: str | None, secret: str | None, scope: str | None) -> str:
        """A new token. Raises `NotAdmitted`."""
        if grant_type is None or client_id is None or secret is None:
            missing = {"grant_type": grant_type, "client_id": client_id, "client_secret": secret}
            names = ", ".join(name for name, value in missing.items() if value is None)
            raise NotAdmitted("invalid_request", f"the request lacks {names}")
        if grant_type != "client_credentials":
            raise NotAdmitted("unsupported_grant_type", "grant_type must be client_credentials")
        client = self._clients.get(client_id)
        # compared even where the client is unknown, so that the time taken does not tell which ids exist
        fits = hmac.compare_digest(
            secret.encode(), (client.secret if client is not None else secrets.token_hex()).encode()
        )
        if client is None or not fits:
            raise NotAdmitted("invalid_client", "unknown client_id or wrong client_secret", 401)
        beyond = set((scope or "").split()) - client.role.scopes
        if beyond:
            raise NotAdmitted("invalid_scope", f"this client may not have {', '.join(sorted(beyond))}")
        token = secrets.token_urlsafe(32)
        self._alive[token] = (client, self._clock.monotonic() + self.lifetime_s)
        while len(self._alive) > MOST_TOKENS:
            del self._alive[next(iter(self._alive))]
        return token

    def owner(self, token: str) -> Client | None:
        """Whose token it is; nobody's once it has expired."""
        client, expires_at = self._alive.get(token, (None, 0.0))
        if client is not None and self._clock.monotonic() >= expires_at:
            del self._alive[token]
            return None
        return client

    def client(self, client_id: str) -> Client | None:
        return self._clients.get(client_id)

    def forget(self) -> None:
        """All tokens are void from now on, as after a restart."""
        self._alive.clear()
