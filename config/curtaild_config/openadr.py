"""The site file's OpenADR 3.1 connections: where the VTN is, who we are there, what its words mean at this site."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self, TypeAlias
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, PlainSerializer, PlainValidator, model_validator

from curtaild_config.quantities import Name, PositiveSeconds, Section, parse_endpoint

MOST_DRAW_W = 1e11


@dataclass(frozen=True, slots=True)
class Draw:
    """A ceiling as the site file writes it: `watts`, or `fraction` of a feeder's rating (0 to 1)."""

    watts: float | None = None
    fraction: float | None = None

    def of(self, rating_w: float) -> float:
        """In W, at a feeder with this rating."""
        if self.watts is not None:
            return min(self.watts, rating_w)
        return (self.fraction or 0.0) * rating_w

    def __str__(self) -> str:
        return f"{self.watts:g}" if self.watts is not None else f"{100 * (self.fraction or 0.0):g} %"


def _draw(value: object) -> Draw:
    if isinstance(value, Draw):
        return value
    if isinstance(value, str) and (match := re.fullmatch(r"(\d{1,3}(?:\.\d{1,3})?) ?%", value)):
        percent = float(match[1])
        if percent <= 100:
            return Draw(fraction=percent / 100)
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= MOST_DRAW_W:
        return Draw(watts=float(value))
    raise ValueError('should be watts, such as 500_000, or a part of the rating, such as "50 %"')


DrawOrShare: TypeAlias = Annotated[Draw, PlainValidator(_draw), PlainSerializer(str)]


def _https_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme != "https" or not parts.netloc:
        raise ValueError("should begin with https://: OpenADR asks for TLS")
    if "@" in parts.netloc:
        raise ValueError("should not carry a user or password: use client_id and client_secret_file")
    if parts.query or parts.fragment:
        raise ValueError("should end after the path")
    parse_endpoint(parts.netloc, default_port=443)
    return value.rstrip("/")


HttpsUrl: TypeAlias = Annotated[str, Field(max_length=2000), AfterValidator(_https_url)]
Identifier: TypeAlias = Annotated[str, Field(pattern=r"^[ -~]+$", max_length=128)]
"""What OpenADR calls names and targets: 1 to 128 characters."""


class OpenAdrConnection(Section):
    """OpenADR 3.1: this site is a VEN; events and programs are read from a VTN, reports are sent to it."""

    name: Name
    """What this connection is called in the log and in answers; each its own."""
    dialect: Literal["openadr"]
    """What is spoken there."""
    vtn: HttpsUrl
    """The VTN's base URL, under which it has /programs and /events."""
    client_id: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    """Who we are to the VTN (OAuth2); absent: it asks for no token."""
    client_secret_file: Path | None = None
    """A file that holds the secret of `client_id`."""
    client_secret_credential: Name | None = None
    """The systemd credential that holds the secret of `client_id`."""
    token_url: HttpsUrl | None = None
    """Where a token is had; absent: where the VTN says (`/auth/server`)."""
    scope: Annotated[str, Field(pattern=r"^[ -~]+$", max_length=4096)] | None = None
    """The scope asked for with the token; absent: none is named."""
    ca_file: Path | None = None
    """The authority that signs the VTN's and its broker's certificates; absent: the host's own store."""
    cert_file: Path | None = None
    """This site's certificate, for mutual TLS with the VTN."""
    key_file: Path | None = None
    """The key of `cert_file`."""
    ven_name: Identifier | None = None
    """The name of our ven object at the VTN; absent: the site's name."""
    programs: Annotated[tuple[Identifier, ...], Field(max_length=32)] = ()
    """The programs that are followed, by name; empty: all that the VTN shows us."""
    feeder: Name | None = None
    """The feeder that events without targets are about; absent: the whole site."""
    targets: Annotated[dict[Identifier, Name], Field(max_length=64)] = Field(default_factory=dict)
    """The feeder behind each target; empty: those that the VTN has granted us, all of them `feeder`."""
    simple_levels: Annotated[dict[Literal["1", "2", "3"], DrawOrShare], Field(max_length=3)] = Field(
        default_factory=dict
    )
    """What levels 1 to 3 of SIMPLE allow, in watts or as "50 %" of the rating; absent: the fail-safe limit."""
    emergency_limit: DrawOrShare | None = None
    """What a grid emergency allows, likewise; absent: the fail-safe limit."""
    without_event: Literal["released", "failsafe"] = "released"
    """What holds where no event limits the site, as long as the VTN answers."""
    poll_s: Annotated[PositiveSeconds, Field(ge=1)] = 30.0
    """How often programs and events are read, with 10 % of chance in it; each reading is a sign of life."""
    notifications: bool = True
    """Whether the VTN's MQTT notifications are used, where it has any."""
    report_interval_s: Annotated[PositiveSeconds, Field(ge=10)] = 300.0
    """How often a report is sent where the VTN leaves that to us."""

    @model_validator(mode="after")
    def _what_belongs_together_stands_together(self) -> Self:
        if self.client_secret_file and self.client_secret_credential:
            raise ValueError("client_secret_file and client_secret_credential exclude each other")
        has_secret = bool(self.client_secret_file or self.client_secret_credential)
        if has_secret != (self.client_id is not None):
            raise ValueError("client_id and client_secret_file or client_secret_credential need each other")
        if self.client_id is None and (self.token_url or self.scope):
            raise ValueError("token_url and scope have no use without client_id")
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file need each other")
        levels = [self.simple_levels.get(level) for level in ("1", "2", "3")] if self.simple_levels else []
        if any(level is None for level in levels):
            raise ValueError("simple_levels needs 1, 2 and 3: a level without a meaning would shed nothing")
        return self
