"""A throwaway certificate authority for emulated BMCs, and the certificates that are wrong on purpose.

BMCs choose the certificate at each handshake by their faults of that moment, so that faults can be switched live.
"""

from __future__ import annotations

import datetime
import ipaddress
import ssl
import tempfile
from collections.abc import Callable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from curtaild_emulator.gpu_node import BmcFault

_ELSEWHERE = "192.0.2.1"  # of the block for documentation
_DAY = datetime.timedelta(days=1)
_WRONG = (BmcFault.OTHER_AUTHORITY, BmcFault.OTHER_NAME, BmcFault.EXPIRED)


class Authority:
    """Signs certificates with keys that live as long as the process."""

    def __init__(self, name: str = "Emulated BMCs") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._bmc_key = ec.generate_private_key(ec.SECP256R1())  # one for all: nothing here is secret
        self._name = _named(name)
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        self._certificate = (
            _valid(self._name, self._name, self._key.public_key(), expired=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    @property
    def certificate_pem(self) -> bytes:
        """What a client must trust."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def context(self, host: str, name: str, *, expired: bool = False) -> ssl.SSLContext:
        """A server that shows a certificate made out to the address `host` and to `name`."""
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        certificate = (
            _valid(_named(name), self._name, self._bmc_key.public_key(), expired=expired)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host)), x509.DNSName(name)]),
                critical=False,
            )
            .add_extension(authority, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        key = self._bmc_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.NamedTemporaryFile(suffix=".pem") as chain:  # OpenSSL takes files only
            chain.write(key + certificate.public_bytes(serialization.Encoding.PEM))
            chain.flush()
            context.load_cert_chain(chain.name)
        return context


class Certificates:
    """The authority that clients trust, and one that they do not."""

    def __init__(self) -> None:
        self.authority = Authority()
        self._other: Authority | None = None

    def write_authority(self, path: Path) -> None:
        """Leave the authority's certificate in a file, in PEM, for clients to trust."""
        path.write_bytes(self.authority.certificate_pem)

    def context(self, host: str, name: str, has: Callable[[BmcFault], bool]) -> ssl.SSLContext:
        """A server that shows what its faults dictate at the moment of each handshake."""
        made: dict[BmcFault, ssl.SSLContext] = {}

        def choose(tls: ssl.SSLObject | ssl.SSLSocket, asked_for: str | None, context: ssl.SSLContext) -> None:
            fault = next((fault for fault in _WRONG if has(fault)), None)
            if fault is not None:
                if fault not in made:
                    made[fault] = self._wrong(host, name, fault)
                tls.context = made[fault]

        context = self.authority.context(host, name)
        context.sni_callback = choose  # called for every client, whether it names a server or not
        return context

    def _wrong(self, host: str, name: str, fault: BmcFault) -> ssl.SSLContext:
        if fault is BmcFault.OTHER_AUTHORITY:
            self._other = self._other or Authority("Somebody Else")
            return self._other.context(host, name)
        if fault is BmcFault.OTHER_NAME:
            return self.authority.context(_ELSEWHERE, "bmc.elsewhere.example")
        return self.authority.context(host, name, expired=True)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])


def _valid(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, *, expired: bool
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 30 * _DAY)
        .not_valid_after(now - _DAY if expired else now + 30 * _DAY)
    )
