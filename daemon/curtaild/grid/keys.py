"""Who may speak where messages are signed: JWS compact serialization (RFC 7515), ES256 or RS256.

An issuer's public keys are a JWK set (RFC 7517) in a file of its own, so that nobody signs for somebody else; a key is
rotated by adding the new one to the file and reloading.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from joserfc import jws
from joserfc.jwk import ECKey, RSAKey

from curtaild.clock import UnixSeconds
from curtaild.core.allocation import RejectCode
from curtaild.grid import fields
from curtaild.grid.fields import Rejection, malformed
from curtaild_drivers.broker.signing import BOUNDS, KeyFileError, Signer, algorithm_of, asymmetric, load_signer
from curtaild_drivers.contract import Seconds

MAX_KEY_FILE_BYTES = 1024 * 1024
__all__ = ["KeyFileError", "PublicKeys", "Signer", "Verified", "load_public_keys", "load_signer", "verify"]


@dataclass(frozen=True, slots=True)
class PublicKeys:
    """One issuer's keys by `kid`."""

    keys: Mapping[str, ECKey | RSAKey]


@dataclass(frozen=True, slots=True)
class Verified:
    """What was signed, and by the key called `kid`. `digest` names the signed part, `is_dated`: the signature covers a
    time or an id of its own."""

    body: Mapping[str, object]
    digest: bytes
    is_dated: bool
    kid: str


def load_public_keys(path: Path) -> PublicKeys:
    """The JWK set at `path`. Raises `KeyFileError`: unreadable, no key, a key without `kid`, too weak, or of a kind
    that this protocol does not sign with. A symmetric one is refused: whoever can verify with it can sign as well."""
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_KEY_FILE_BYTES + 1)
        document = json.loads(raw) if len(raw) <= MAX_KEY_FILE_BYTES else None
    except OSError as error:
        raise KeyFileError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise KeyFileError(f"{path} is not JSON: a JWK set is expected") from None
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list) or not entries:
        raise KeyFileError(f"{path} is no JWK set: it has no keys")
    keys: dict[str, ECKey | RSAKey] = {}
    for number, entry in enumerate(entries, start=1):
        key, kid = asymmetric(entry, f"{path}, key #{number}")
        if kid is None or kid in keys:
            raise KeyFileError(f"{path}, key #{number}: {'has no kid' if kid is None else f'a second {kid!r}'}")
        keys[kid] = key
    return PublicKeys(keys)


def verify(
    token: str, keys: PublicKeys, audiences: frozenset[str], now: UnixSeconds, max_age_s: Seconds | None
) -> Verified:
    """What `token` says, if one of `keys` signed it. Raises `Rejection`: `UNAUTHORIZED` for a wrong signature, an
    unknown key, another algorithm than the key's, somebody else's audience; `EXPIRED` past `exp` or, where `max_age_s`
    is asked, older than that by `iat`; `MALFORMED`.

    DSX Flex puts no time into what is signed. Where an issuer does (`iat`, `exp`, `nbf`, `aud`, `jti`, in the
    header or the body), it counts.
    """
    header = _header(token)
    kid = header.get("kid")
    key = keys.keys.get(kid) if isinstance(kid, str) else None
    if key is None:
        raise _unauthorized(f"no key {fields.shown(kid)} of this issuer is known")
    named = header.get("alg")
    if named != algorithm_of(key):  # before any key is used: "none" and HMAC with a public key end here
        raise _unauthorized(f"algorithm {fields.shown(named)} is not what key {fields.shown(kid)} signs with")
    try:
        signed = jws.deserialize_compact(token, key, registry=BOUNDS)
    except Exception:  # a parser of a third party's over hostile bytes; whatever it raises means the same
        raise _unauthorized("the signature does not fit") from None
    body, has_literals = fields.parse_object(signed.payload)
    if has_literals:
        raise malformed("NaN and Infinity are not JSON")
    claims = {**{name: header[name] for name in _CLAIMS if name in header}, **body}
    _check_claims(claims, audiences, now, max_age_s)
    digest = hashlib.sha256(token.rpartition(".")[0].encode()).digest()  # an ES256 signature has a valid twin
    return Verified(body, digest, any(name in claims for name in ("iat", "jti")), str(kid))


_CLAIMS = ("iat", "exp", "nbf", "aud", "jti")


def _header(token: str) -> Mapping[str, object]:
    try:
        header = jws.extract_compact(token.encode(), registry=BOUNDS).headers()
    except Exception:  # see above
        raise malformed("data is no JWS in compact serialization") from None
    if not isinstance(header, dict):
        raise malformed("data is no JWS in compact serialization")
    return header


def _check_claims(
    claims: Mapping[str, object], audiences: frozenset[str], now: UnixSeconds, max_age_s: Seconds | None
) -> None:
    audience = claims.get("aud")
    if audience is not None:
        named = audience if isinstance(audience, list) else [audience]
        if not any(isinstance(name, str) and name in audiences for name in named):
            raise _unauthorized(f"signed for {fields.shown(audience)}, not for this agent")
    expires, begins, issued = (fields.amount_or_none(claims, name) for name in ("exp", "nbf", "iat"))
    if expires is not None and now >= expires:
        raise Rejection(RejectCode.EXPIRED, "the signature has expired")
    if begins is not None and now < begins:
        raise Rejection(RejectCode.CLOCK_SKEW, "the signature is not valid yet")
    if max_age_s is not None:
        if issued is None:
            raise _unauthorized("what is signed has no iat, which this site asks for")
        if now - issued > max_age_s:
            raise Rejection(RejectCode.EXPIRED, f"signed {now - issued:.0f} s ago")
        if issued - now > max_age_s:
            raise Rejection(RejectCode.CLOCK_SKEW, f"signed {issued - now:.0f} s ahead of the site's clock")


def _unauthorized(reason: str) -> Rejection:
    return Rejection(RejectCode.UNAUTHORIZED, reason)
