"""How we sign what we say over a broker: JWS compact serialization (RFC 7515), ES256 or RS256."""

from __future__ import annotations

import json
from dataclasses import dataclass

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey, import_key
from joserfc.jws import JWSRegistry

ALGORITHMS = ("ES256", "RS256")
LEAST_RSA_BITS = 2048


class _Bounds(JWSRegistry):
    """joserfc takes 128,000 bytes at most; the longest schedule is longer, and every edge bounds what it reads."""

    max_payload_length = 64 * 1024 * 1024


BOUNDS = _Bounds(algorithms=ALGORITHMS)


class KeyFileError(ValueError):
    """A key file that cannot be used, and why. The text never holds a key."""


@dataclass(frozen=True, slots=True)
class Signer:
    """Our own key. `kid` is what the other side finds its public half by."""

    key: ECKey | RSAKey
    kid: str

    def sign(self, body: bytes) -> str:
        return jws.serialize_compact({"alg": algorithm_of(self.key), "kid": self.kid}, body, self.key, registry=BOUNDS)

    def own(self, token: bytes) -> bytes | None:
        """What is signed in `token`, if by this very key."""
        try:
            return jws.deserialize_compact(token, self.key, registry=BOUNDS).payload
        except Exception:  # a parser of a third party's over hostile bytes; whatever it raises means the same
            return None


def load_signer(text: str, kid: str | None, where: str) -> Signer:
    """Our private key from PEM or a JWK, `kid` by default the JWK's own. Raises `KeyFileError`."""
    try:
        data = json.loads(text) if text.lstrip().startswith("{") else text
    except ValueError:
        raise KeyFileError(f"{where} is neither a PEM key nor a JWK") from None
    key, own_kid = asymmetric(data, where)
    if not key.is_private:
        raise KeyFileError(f"{where} holds a public key: the private one signs")
    if kid is None and own_kid is None:
        raise KeyFileError(f"{where} has no kid: set signing_key_id")
    return Signer(key, kid if kid is not None else str(own_kid))


def asymmetric(data: object, where: str) -> tuple[ECKey | RSAKey, str | None]:
    """The key and its own `kid`, from PEM or a JWK. Raises `KeyFileError`: no key, too weak, of another kind."""
    if not isinstance(data, (dict, str)):
        raise KeyFileError(f"{where} is no key")
    try:
        key = import_key(data) if isinstance(data, dict) else _from_pem(data)
        kid = key.kid if isinstance(data, dict) else None
    except (JoseError, ValueError, TypeError, KeyError):
        raise KeyFileError(f"{where} is neither an EC nor an RSA key") from None
    if isinstance(key, ECKey) and key.curve_name != "P-256":
        raise KeyFileError(f"{where} is on {key.curve_name}: ES256 wants P-256")
    if isinstance(key, RSAKey) and key.public_key.key_size < LEAST_RSA_BITS:
        raise KeyFileError(f"{where} has {key.public_key.key_size} bits: at least {LEAST_RSA_BITS} are needed")
    if not isinstance(key, ECKey | RSAKey):
        raise KeyFileError(f"{where} is neither an EC nor an RSA key")
    return key, kid


def _from_pem(pem: str) -> ECKey | RSAKey:
    try:
        return ECKey.import_key(pem)
    except JoseError:
        return RSAKey.import_key(pem)


def algorithm_of(key: ECKey | RSAKey) -> str:
    """The one algorithm that a key signs with."""
    return "ES256" if isinstance(key, ECKey) else "RS256"
