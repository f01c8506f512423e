"""How Whatsminers with API 2 protect commands: md5-crypt makes the key and the signature, AES-256-ECB the envelope."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import warnings
from functools import lru_cache
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # passlib looks for the platform's crypt, and finds it
    from passlib.hash import md5_crypt  # type: ignore[import-untyped]  # it ships no types

_BLOCK = 16


@lru_cache(maxsize=4096)
def crypt(word: str, salt: str) -> str:
    """The hash part of md5-crypt. Slow on purpose, so remembered: devices of a farm share salts here."""
    return str(md5_crypt.using(salt=salt).hash(word)).split("$")[3]


def signature(key: str, time_text: str, newsalt: str) -> str:
    """What a client must send as its token: the key hashed once more with the challenge."""
    return crypt(key + time_text, newsalt)


def open_envelope(key: str, data: object) -> dict[str, Any] | None:
    """The command inside, or `None` where it does not decrypt to a JSON object: the password was another."""
    if not isinstance(data, str):
        return None
    try:
        sealed = base64.b64decode(data)
        if not sealed or len(sealed) % _BLOCK:
            return None
        decryptor = _cipher(key).decryptor()
        opened = json.loads((decryptor.update(sealed) + decryptor.finalize()).rstrip(b"\0"))
    except (ValueError, binascii.Error, RecursionError):
        return None
    return opened if isinstance(opened, dict) else None


def seal(key: str, answer: dict[str, Any]) -> dict[str, str]:
    """An answer as the device sends it: `{"enc": …}`."""
    text = json.dumps(answer).encode()
    text += b"\0" * (-len(text) % _BLOCK)
    encryptor = _cipher(key).encryptor()
    return {"enc": base64.b64encode(encryptor.update(text) + encryptor.finalize()).decode()}


@lru_cache(maxsize=256)
def _cipher(key: str) -> Cipher[modes.ECB]:
    return Cipher(algorithms.AES(hashlib.sha256(key.encode()).digest()), modes.ECB())
