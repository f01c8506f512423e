"""The Whatsminer v2 token: two md5-crypts over what the device hands out, and AES-256-ECB around every command
(Whatsminer API 2.0.x; also pyasic/rpc/btminer.py). A token lives 30 min on the device, and a device gives out few.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import random
import time
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from passlib.hash import md5_crypt  # type: ignore[import-untyped]  # passlib ships no types

from curtaild_drivers.asic.cgminer import Reply, parse
from curtaild_drivers.contract import BadReply, Seconds

_LIFETIME_S: Seconds = 28 * 60.0
"""The device forgets a token after 30 min; this leaves room for a command to arrive."""
_RENEWED_BEFORE_S: tuple[Seconds, Seconds] = (300.0, 840.0)
"""At some moment between these a token is renewed while the old one would still do: the devices of a farm were all
given theirs when the daemon started, and would all need the next in the same seconds. Three at most are alive at once.
"""


@dataclass(frozen=True, slots=True)
class Token:
    """What signs and what encrypts a command to one device, until when, and from when on it had better be renewed."""

    signature: str = field(repr=False)
    key: bytes = field(repr=False)
    good_until: Seconds
    renew_at: Seconds

    @classmethod
    def made_from(cls, handed_out: object, password: str) -> Token:
        """From the device's `Msg` of get_token. Raises `BadReply` if that is not what it should be."""
        message = handed_out if isinstance(handed_out, dict) else {}
        salt, newsalt, moment = (message.get(name) for name in ("salt", "newsalt", "time"))
        if not (isinstance(salt, str) and isinstance(newsalt, str) and isinstance(moment, str)):
            raise BadReply("get_token: no salt, newsalt and time in the answer")
        try:
            passphrase = _md5_crypt(password, salt)
            signature = _md5_crypt(passphrase + moment, newsalt)
        except (ValueError, TypeError):
            raise BadReply("get_token: not a salt that md5-crypt takes") from None
        key = hashlib.sha256(passphrase.encode()).digest()
        good_until = time.monotonic() + _LIFETIME_S
        return cls(signature, key, good_until, good_until - random.uniform(*_RENEWED_BEFORE_S))

    @property
    def is_good(self) -> bool:
        """Whether the device still knows it."""
        return time.monotonic() < self.good_until

    def sealed(self, command: str, **parameters: str) -> Reply:
        """The command as it goes over the wire."""
        text = json.dumps({"cmd": command, **parameters, "token": self.signature}).encode()
        text += b"\0" * (-len(text) % 16)
        encryptor = Cipher(algorithms.AES(self.key), modes.ECB()).encryptor()
        return {"enc": 1, "data": base64.b64encode(encryptor.update(text) + encryptor.finalize()).decode()}

    def opened(self, reply: Reply) -> Reply:
        """The answer in clear; some refusals come in clear already. Raises `BadReply`."""
        sealed = reply.get("enc")
        if not isinstance(sealed, str):
            return reply
        try:
            data = base64.b64decode(sealed)
            decryptor = Cipher(algorithms.AES(self.key), modes.ECB()).decryptor()
            text = decryptor.update(data) + decryptor.finalize()
        except (ValueError, binascii.Error):
            raise BadReply("an encrypted answer that cannot be decrypted") from None
        return parse(text)


def _md5_crypt(word: str, salt: str) -> str:
    """The hash alone, without "$1$salt$". `using(salt=…)` would make a class for each salt, which only a search for
    garbage frees: thousands in the seconds in which a farm's tokens are renewed."""
    return str(md5_crypt.genhash(word, f"$1${salt}$")).rpartition("$")[2]
