"""The site file's `[grid]` and its connections: whom the site listens to, in which dialect, what holds in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import AfterValidator, Field, model_validator

from curtaild_config.openadr import OpenAdrConnection
from curtaild_config.quantities import (
    BrokerUrl,
    Count,
    Name,
    PositiveNumber,
    PositiveSeconds,
    PositiveWatts,
    Seconds,
    Section,
    TopicLevel,
    TopicPrefix,
    Watts,
)

FeedTag: TypeAlias = Annotated[str, Field(pattern=r"^[!-~]+$", max_length=128)]
InfrastructureAction: TypeAlias = Literal["SHUTDOWN_NODES", "SHUTDOWN_RACKS", "CUT_DATA_FEEDS", "TRIP_BREAKERS"]


def _issuer_name(value: str) -> str:
    if "//" in value or not value.isprintable():
        raise ValueError("should be printable, without //: such names are other dialects'")
    return value


class _Brokers(Section):
    """How brokers are reached, and as whom."""

    username: str | None = None
    """The user at the brokers."""
    password_file: Path | None = None
    """A file that holds the password at the brokers."""
    password_credential: Name | None = None
    """The systemd credential that holds the password at the brokers."""
    ca_file: Path | None = None
    """The authority that signs the brokers' certificates; absent: the host's own store."""
    cert_file: Path | None = None
    """This site's certificate, for mutual TLS."""
    key_file: Path | None = None
    """The key of `cert_file`."""
    client_id: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """The MQTT client id; absent: `curtaild-` and the site's name, and in a connection its name as well."""
    keepalive_s: Annotated[PositiveSeconds, Field(ge=5, le=65_535)] = 30.0
    """MQTT keepalive: a frozen broker is noticed after about twice this."""

    @model_validator(mode="after")
    def _password_has_one_source_and_a_user(self) -> Self:
        if self.password_file and self.password_credential:
            raise ValueError("password_file and password_credential exclude each other")
        if (self.password_file or self.password_credential) and not self.username:
            raise ValueError("a password needs a username beside it")
        return self

    @model_validator(mode="after")
    def _certificate_and_key_come_together(self) -> Self:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file need each other")
        tls_keys = [key for key in ("ca_file", "cert_file") if getattr(self, key) is not None]
        brokers: tuple[BrokerUrl, ...] = getattr(self, "brokers", ())
        if tls_keys and not any(broker.tls for broker in brokers):
            raise ValueError(f"{' and '.join(tls_keys)} have no use: no broker is mqtts://")
        return self


class _Connection(_Brokers):
    """What connections of every dialect have in common."""

    name: Name
    """What this connection is called in the log and in answers; each its own."""
    brokers: Annotated[tuple[BrokerUrl, ...], Field(min_length=1, max_length=16)]
    """MQTT brokers, each mqtt://host:port or mqtts://host:port; all are listened to."""


class NativeIssuer(Section):
    """Somebody who may state allocations in the native dialect, and signs them."""

    name: Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_issuer_name)]
    """What he calls himself: `issuer` in his messages."""
    keys_file: Path
    """His public keys, a JWK set; read anew on reload."""
    feeders: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None
    """The feeders he may limit; absent: all."""
    lowest_limit_w: Watts = 0.0
    """The lowest limit he may state, in watts; what is lower is refused."""
    emergency: bool = True
    """Whether he may state allocations of class emergency."""
    messages_per_min: PositiveNumber = 120.0
    """How many of his allocations and schedules are taken; of more, the newest waits for its turn."""


def _each_once(issuers: tuple[NativeIssuer, ...]) -> tuple[NativeIssuer, ...]:
    if len({issuer.name for issuer in issuers}) != len(issuers):
        raise ValueError("has two of one name: put all keys of one issuer into one file")
    return issuers


Issuers: TypeAlias = Annotated[tuple[NativeIssuer, ...], Field(max_length=16), AfterValidator(_each_once)]


class NativeConnection(_Connection):
    """A further grid operator who speaks the native dialect."""

    dialect: Literal["native"]
    """What is spoken there."""
    prefix: TopicPrefix = "curtaild/v1"
    """What all topics of the native dialect begin with."""
    issuer: Issuers = ()
    """Who may speak there, signing all he says; absent: whoever the brokers let, unsigned."""


class MaestroOSConnection(_Connection):
    """MaestroOS: ON and OFF on one topic, said again and again."""

    dialect: Literal["maestroos"]
    """What is spoken there."""
    topic: TopicPrefix
    """The topic that carries ON and OFF."""
    feeder: Name | None = None
    """The feeder that is switched; absent: the whole site."""
    on_limit_w: Watts | None = None
    """What ON grants, in watts; absent: all that the feeder's rating carries."""
    silence_s: PositiveSeconds = 240.0
    """Silence on all brokers for this long is OFF."""


class DsxFlexConnection(_Connection):
    """DSX Flex 1.7: signed load targets per feed, power state snapshots, breach alerts."""

    dialect: Literal["dsx-flex"]
    """What is spoken there."""
    agent: TopicLevel
    """This agent's identifier, as registered: it stands in topics and in `source`."""
    signing_key_file: Path | None = None
    """A file that holds the private key we sign with, PEM or JWK: EC P-256 or RSA."""
    signing_key_credential: Name | None = None
    """The systemd credential that holds the private key we sign with."""
    signing_key_id: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """The `kid` by which others find our public key; absent: the JWK's own."""
    isvs: Annotated[dict[TopicLevel, Path], Field(min_length=1, max_length=16)]
    """Who may set load targets, by identifier: each a file with the public keys, a JWK set; read anew on reload."""
    infra: Annotated[dict[TopicLevel, Path], Field(max_length=16)] = Field(default_factory=dict)
    """Infrastructure agents whose enforcement outcomes are heard, likewise."""
    feeds: Annotated[dict[FeedTag, Name], Field(min_length=1, max_length=256)]
    """The feeder behind each feed tag."""
    without_target: Literal["failsafe", "released"] = "failsafe"
    """What holds where no target does; with "released" the broker alone is the sign of life."""
    snapshot_interval_s: PositiveSeconds = 30.0
    """How often the power state is published though nothing has changed."""
    signature_max_age_s: PositiveSeconds | None = None
    """How old a signature may be by its `iat`; absent: none is asked for, as the specification has none."""
    infrastructure_actions: tuple[InfrastructureAction, ...] = ("SHUTDOWN_NODES", "SHUTDOWN_RACKS")
    """What a breach alert offers, the mildest first: that one at once, all when it has escalated."""

    @model_validator(mode="after")
    def _signs_with_one_key_and_each_feed_is_one_feeder(self) -> Self:
        if (self.signing_key_file is None) == (self.signing_key_credential is None):
            raise ValueError("needs one of signing_key_file and signing_key_credential")
        if len(set(self.feeds.values())) != len(self.feeds):
            raise ValueError("feeds has two tags for one feeder")
        return self


BrokerConnection: TypeAlias = NativeConnection | MaestroOSConnection | DsxFlexConnection
"""Those that have brokers of their own."""
AnyConnection: TypeAlias = BrokerConnection | OpenAdrConnection
GridConnection: TypeAlias = Annotated[AnyConnection, Field(discriminator="dialect")]


class GridSection(_Brokers):
    """How the site hears the grid operator, and what holds while it does not."""

    brokers: Annotated[tuple[BrokerUrl, ...], Field(min_length=1, max_length=16)] = ()
    """MQTT brokers of the native dialect, each mqtt://host:port or mqtts://host:port; all are listened to."""
    prefix: TopicPrefix = "curtaild/v1"
    """What all topics of the native dialect begin with."""
    issuer: Issuers = ()
    """Who may speak at these brokers, signing all he says; absent: whoever the brokers let, unsigned."""
    heartbeat: Literal["required", "none"] = "required"
    """Whether the grid's side sends heartbeats; with "none" an allocation's own age is the heartbeat."""
    heartbeat_timeout_s: PositiveSeconds = 120.0
    """After this silence the fail-safe limit holds."""
    failsafe_limit_w: Watts
    """The ceiling that holds while the grid is silent, in watts. 0 is a limit: everything off."""
    failsafe_hold_s: Seconds = 60.0
    """The least time the fail-safe limit holds once entered."""
    allocation_max_age_s: PositiveSeconds = 900.0
    """With heartbeat = "none": the age at which the last allocation no longer proves that the grid is there."""
    max_clock_skew_s: PositiveSeconds = 300.0
    """Messages stamped further than this in the future are rejected."""
    max_payload_bytes: Annotated[Count, Field(ge=1_024)] = 16_384
    """Longer messages are rejected unread."""
    status_interval_s: PositiveSeconds = 10.0
    """How often the site's status is published."""
    allocation_cap_w: PositiveWatts | None = None
    """The most the grid contract grants; no allocation lifts the limit above it."""
    connection: Annotated[tuple[GridConnection, ...], Field(max_length=16)] = ()
    """Further connections, of any dialect; the strictest of all their limits holds."""

    @model_validator(mode="after")
    def _somebody_is_listened_to(self) -> Self:
        if not self.brokers and not self.connection:
            raise ValueError("brokers is missing: the grid operator's MQTT brokers, or a [[grid.connection]]")
        own = [key for key in ("prefix", "username", "client_id", "issuer") if key in self.model_fields_set]
        if not self.brokers and own:
            raise ValueError(f"{' and '.join(own)} have no use without brokers beside them")
        names = [connection.name for connection in self.connection]
        if len(set(names)) != len(names) or (self.brokers and OWN_CONNECTION in names):
            taken = f", and {OWN_CONNECTION!r} is the one that brokers makes" if self.brokers else ""
            raise ValueError(f"each connection needs a name of its own{taken}")
        if self.heartbeat == "required" and not any(_has_signs_of_life(each) for each in self.connections):
            raise ValueError(
                'heartbeat = "required", but no connection brings signs of life: "none", or released feeds'
            )
        seldom = [each.name for each in self.connection if isinstance(each, OpenAdrConnection) and self._outlasts(each)]
        if seldom:
            raise ValueError(
                f"poll_s of {', '.join(seldom)} should be at most a third of {self._patience_key}: "
                "else one lost answer is a silence"
            )
        return self

    @property
    def _patience_key(self) -> str:
        return "heartbeat_timeout_s" if self.heartbeat == "required" else "allocation_max_age_s"

    def _outlasts(self, vtn: OpenAdrConnection) -> bool:
        patience_s: float = getattr(self, self._patience_key)
        return 3 * vtn.poll_s > patience_s

    @property
    def connections(self) -> tuple[AnyConnection, ...]:
        """All of them: the one of `brokers` first, as if it had been written out."""
        if not self.brokers:
            return self.connection
        shared = {key: getattr(self, key) for key in _Brokers.model_fields}
        own = NativeConnection(
            name=OWN_CONNECTION,
            dialect="native",
            brokers=self.brokers,
            prefix=self.prefix,
            issuer=self.issuer,
            **shared,
        )
        return (own, *self.connection)


def _has_signs_of_life(connection: AnyConnection) -> bool:
    return not isinstance(connection, DsxFlexConnection) or connection.without_target == "released"


OWN_CONNECTION = "native"
"""The name of the connection that `brokers` of `[grid]` makes."""
