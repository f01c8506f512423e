"""Who may speak on a signed native connection, and what he may say: keys, rights, proofs of life that are new.

Every message is a JWS whose payload is the usual JSON with an `aud` in it: the topic it is for, so that what was signed
for one site, or as one kind of message, is worth nothing anywhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from curtaild.clock import UnixSeconds
from curtaild.core.allocation import Allocation, Issuer, RejectCode, Urgency
from curtaild.core.limits import Limit
from curtaild.grid import fields
from curtaild.grid.fields import Rejection
from curtaild.grid.keys import KeyFileError, PublicKeys, verify
from curtaild_drivers.contract import FeederId, Seconds, Watts


@dataclass(frozen=True, slots=True)
class Rights:
    """What one issuer may do. `feeders` `None`: any. `messages_per_min`: allocations and schedules taken of him."""

    feeders: frozenset[FeederId] | None = None
    lowest_limit_w: Watts = 0.0
    may_state_emergency: bool = True
    messages_per_min: float = 120.0


@dataclass(slots=True)
class Gate:
    """One connection's issuers. `rights` names them all; `issuers` says by `kid` whose key it is."""

    rights: Mapping[Issuer, Rights]
    keys: PublicKeys
    issuers: Mapping[str, Issuer]
    _last_beat: dict[Issuer, int] = field(default_factory=dict)

    def open(self, payload: bytes, topic: str, wall: UnixSeconds) -> tuple[Mapping[str, object], Issuer]:
        """What is signed in `payload`, and by whom. Raises `Rejection`: `UNAUTHORIZED` where it is not signed, by
        nobody known, for another topic or in another's name."""
        if payload.lstrip()[:1] == b"{":
            body, _ = fields.parse_object(payload)
            raise Rejection(RejectCode.UNAUTHORIZED, "not signed, and this site takes only what is", body)
        try:
            token = payload.decode("ascii")
        except UnicodeDecodeError:
            raise fields.malformed("no JWS in compact serialization") from None
        verified = verify(token, self.keys, frozenset((topic,)), wall, None)
        if "aud" not in verified.body:
            raise Rejection(RejectCode.UNAUTHORIZED, f"signed without aud: it should be {topic}", verified.body)
        issuer = self.issuers[verified.kid]
        named = verified.body.get("issuer", issuer)
        if named != issuer:
            reason = f"{fields.shown(issuer)} signs in the name of {fields.shown(named)}"
            raise Rejection(RejectCode.UNAUTHORIZED, reason, verified.body)
        return verified.body, issuer

    def judge(self, allocation: Allocation) -> None:
        """Raises `Rejection` where its issuer has no right to it. A release takes back only what he stated himself."""
        rights = self.rights[allocation.issuer]
        if rights.feeders is not None and allocation.feeder not in rights.feeders:
            raise _no_right(allocation, f"speaks for {', '.join(sorted(rights.feeders))}, not for {allocation.feeder}")
        if isinstance(allocation.ceiling, Limit) and allocation.ceiling.watts < rights.lowest_limit_w:
            raise _no_right(allocation, f"may not go below {rights.lowest_limit_w:g} W")
        if allocation.urgency is Urgency.EMERGENCY and not rights.may_state_emergency:
            raise _no_right(allocation, "may not state an emergency")

    def is_new_beat(self, issuer: Issuer, at: UnixSeconds, seq: int, wall: UnixSeconds, skew_s: Seconds) -> bool:
        """Whether a heartbeat proves that its sender is alive: it was sent now, and is not one heard before. Raises
        `Rejection` (`CLOCK_SKEW`) where its own time says otherwise: then a clock is wrong, or it was kept back."""
        if abs(at - wall) > skew_s:
            way = "ahead of" if at > wall else "behind"
            raise Rejection(RejectCode.CLOCK_SKEW, f"at is {abs(at - wall):.0f} s {way} the site's clock")
        is_new = seq > self._last_beat.get(issuer, -1)
        if is_new:
            self._last_beat[issuer] = seq
        return is_new


def gate_of(rights: Mapping[Issuer, Rights], keys: Mapping[Issuer, PublicKeys]) -> Gate:
    """Raises `KeyFileError` where two issuers have keys of one name: then nobody could say who has signed."""
    issuers: dict[str, Issuer] = {}
    for issuer, own in keys.items():
        for kid in own.keys:
            if kid in issuers:
                raise KeyFileError(f"{issuer} and {issuers[kid]} both have a key {kid!r}: each kid is one issuer's")
            issuers[kid] = issuer
    together = {kid: key for own in keys.values() for kid, key in own.keys.items()}
    return Gate(rights, PublicKeys(together), issuers)


def _no_right(allocation: Allocation, reason: str) -> Rejection:
    return Rejection(RejectCode.UNAUTHORIZED, f"{fields.shown(allocation.issuer)} {reason}")
