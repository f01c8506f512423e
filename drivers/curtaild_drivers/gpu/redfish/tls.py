"""Whom a BMC's certificate proves: by an authority, or by the certificate's own fingerprint. Never nobody.

BMCs are shipped with self-signed certificates, so what is wrong with one is told in a form that can be acted on: what
it says, who signed it, until when, its fingerprint, and what to write into the site file.
"""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

import aiohttp
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID

from curtaild_drivers.contract import Seconds, Unreachable
from curtaild_drivers.gpu.redfish.document import text

_NOT_YET_VALID, _EXPIRED, _WRONG_NAME, _WRONG_ADDRESS = 9, 10, 62, 64  # OpenSSL: x509_vfy.h, X509_V_ERR_…


@dataclass(frozen=True, slots=True)
class Trust:
    """How one BMC is known: by `fingerprint` (SHA-256, lower-case hexadecimal) where there is one, else by an
    authority in `ca_file`, else by one of the host's own store."""

    ca_file: Path | None = None
    fingerprint: str | None = None

    async def verifier(self) -> ssl.SSLContext | aiohttp.Fingerprint:
        """What aiohttp verifies the connection with before it sends a byte of ours. Raises `Unreachable` where the
        authority's file is not to be read."""
        if self.fingerprint is not None:
            return aiohttp.Fingerprint(bytes.fromhex(self.fingerprint))
        try:
            changed_at = self.ca_file.stat().st_mtime_ns if self.ca_file is not None else 0
            return await asyncio.to_thread(_context, self.ca_file, changed_at)
        except OSError as error:  # ssl.SSLError is one
            raise Unreachable(f"ca_file {self.ca_file} is of no use: {error}") from None


@lru_cache(maxsize=64)
def _context(ca_file: Path | None, changed_at: int) -> ssl.SSLContext:
    """One context for all BMCs of a group: with the host's store it takes a megabyte."""
    del changed_at  # a renewed file is read again
    return ssl.create_default_context(cafile=str(ca_file) if ca_file is not None else None)


async def explained(error: aiohttp.ClientError, host: str, port: int, trust: Trust) -> str:
    """What is wrong with the certificate that `host` shows, and what to do about it."""
    cause = error.certificate_error if isinstance(error, aiohttp.ClientConnectorCertificateError) else error
    if not isinstance(cause, ssl.SSLCertVerificationError | aiohttp.ServerFingerprintMismatch):
        return f"TLS with {host}:{port} failed: {text(str(cause))}"
    shown = await _shown(host, port)
    try:
        return _told(cause, shown, host, port, trust)
    except Exception:  # a stranger's certificate may be malformed anywhere, and is parsed as it is asked
        return f"the certificate of {host}:{port} is not to be trusted: {text(str(cause))}"


def _told(
    cause: ssl.SSLCertVerificationError | aiohttp.ServerFingerprintMismatch,
    shown: x509.Certificate | None,
    host: str,
    port: int,
    trust: Trust,
) -> str:
    if shown is None:
        return f"the certificate of {host}:{port} is not to be trusted: {text(str(cause))}"
    print_of = fingerprint(shown)
    told = f"the certificate of {host}:{port} ({_described(shown)}, SHA-256 {print_of})"
    if isinstance(cause, aiohttp.ServerFingerprintMismatch):
        return (
            f"{told} is not the one in fingerprints ({trust.fingerprint}): if it was renewed, compare it on the BMC's "
            "own console and write the new one; if not, something else answers there"
        )
    return f"{told} {_wrong(cause, shown, host, trust)}"


def _wrong(cause: ssl.SSLCertVerificationError, shown: x509.Certificate, host: str, trust: Trust) -> str:
    code = cause.verify_code
    if code == _EXPIRED:
        return f"expired on {shown.not_valid_after_utc:%Y-%m-%d}: renew it on the BMC, and check this host's clock"
    if code == _NOT_YET_VALID:
        return f"is valid only from {shown.not_valid_before_utc:%Y-%m-%d}: check the clocks of the BMC and this host"
    if code in (_WRONG_NAME, _WRONG_ADDRESS):
        return (
            f"is for {', '.join(_names(shown)) or 'no name at all'}, not for {host}: list the BMC by a name in it, "
            f"renew it with this one, or put it into fingerprints: {host!r} = {fingerprint(shown)!r}"
        )
    known = f"ca_file {trust.ca_file}" if trust.ca_file is not None else "this host's store"
    return (
        f"is signed by nobody in {known}: put its authority into ca_file, or, once you have compared it on the BMC's "
        f"own console, the certificate itself into fingerprints: {host!r} = {fingerprint(shown)!r}"
    )


async def _shown(host: str, port: int) -> x509.Certificate | None:
    """The certificate that is shown, whoever shows it: the connection carries nothing else and is closed at once."""
    unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE
    try:
        async with asyncio.timeout(_LOOK_S):
            _, writer = await asyncio.open_connection(host, port, ssl=unverified)
    except (OSError, TimeoutError):
        return None
    try:
        line = writer.get_extra_info("ssl_object")
        raw = line.getpeercert(binary_form=True) if line is not None else None
        return x509.load_der_x509_certificate(raw) if raw else None
    except ValueError:
        return None
    finally:
        writer.transport.abort()


_LOOK_S: Seconds = 5.0


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the whole certificate, lower-case hexadecimal."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def _described(certificate: x509.Certificate) -> str:
    signer = "itself" if certificate.issuer == certificate.subject else _common_name(certificate.issuer)
    days = (certificate.not_valid_after_utc - datetime.now(UTC)).days
    return f"for {_common_name(certificate.subject)}, signed by {signer}, {max(days, 0)} days left"


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return []
    addresses: list[ipaddress.IPv4Address | ipaddress.IPv6Address | ipaddress.IPv4Network | ipaddress.IPv6Network]
    addresses = list(alternatives.get_values_for_type(x509.IPAddress))
    return [text(name)[:64] for name in (*alternatives.get_values_for_type(x509.DNSName), *map(str, addresses))][:8]


def _common_name(name: x509.Name) -> str:
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return repr(text(str(found[0].value))[:80]) if found else "nobody"
