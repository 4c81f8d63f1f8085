"""The certificate authority of a run, whose certificates let the gateway act as other hosts.

Its key is in memory only and ends with the run. Its certificate is valid for 30 days, because a run
may last that long. It can certify hosts of AWS and hosts with limits only: a program that trusts it
refuses any other name (RFC 5280, 4.2.1.10, name constraints).
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
import secrets
import ssl
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Authority"]

_LIFE = dt.timedelta(days=30)
_EARLIER = dt.timedelta(hours=1)
"""Start of validity before now, for clocks that are behind."""
_MOST_HOSTS = 1024
"""Most hosts whose certificates are kept, at 20 kB each. Each S3 bucket may be a host."""
_LONGEST_NAME = 64
"""Most characters of a common name. Programs use the alternative name, which may be longer."""
_EVERYWHERE = ("0.0.0.0/0", "::/0")


class Authority:
    """Issues certificates.

    Args:
        domains: the domains of the hosts that it may certify.
    """

    def __init__(self, domains: Iterable[str]) -> None:
        # The key of the authority is never written anywhere: a process that has it can act as any
        # host of `domains` towards the programs of this run.
        self._key = ec.generate_private_key(ec.SECP256R1())
        # One for all hosts, so that a new host needs a certificate only. By itself, this key can
        # act as no host.
        self._leaf_key = ec.generate_private_key(ec.SECP256R1())
        self._password = secrets.token_bytes()
        self._leaf_pem = self._leaf_key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(self._password),
        )
        now = dt.datetime.now(dt.UTC)
        self._from, self._to = now - _EARLIER, now + _LIFE
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "aioapiqueue run")])
        # Key usage and key identifiers are what VERIFY_X509_STRICT requires, the default since
        # Python 3.13.
        self._certificate = (
            self._builder(name, name, self._key.public_key())
            # 0: it cannot certify another authority.
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            # Critical: a program that does not understand the constraints rejects the certificate.
            .add_extension(
                x509.NameConstraints(
                    [x509.DNSName(domain) for domain in domains],
                    # Excluded, because constraints on names leave addresses free: a certificate for
                    # any address would be valid.
                    [x509.IPAddress(ipaddress.ip_network(one)) for one in _EVERYWHERE],
                ),
                critical=True,
            )
            .sign(self._key, hashes.SHA256())
        )
        self.context_for = lru_cache(_MOST_HOSTS)(self._context_for)
        """Returns the TLS context for a host. The latest ones are cached."""

    @property
    def pem(self) -> str:
        """The authority's own certificate."""
        return self._certificate.public_bytes(serialization.Encoding.PEM).decode()

    def _context_for(self, host: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(["http/1.1"])  # h11 speaks nothing else
        # `ssl` reads a key from a file only. So the file is deleted at once, readable by this user
        # only (mode 0600), and encrypted: if this process is killed, it is of no use.
        handle, name = tempfile.mkstemp()
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(self._leaf_pem + self._leaf(host))
            context.load_cert_chain(name, password=self._password)
        finally:
            Path(name).unlink()
        return context

    def _leaf(self, host: str) -> bytes:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:_LONGEST_NAME])])
        certificate = (
            self._builder(name, self._certificate.subject, self._leaf_key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM)

    def _builder(
        self, subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
    ) -> x509.CertificateBuilder:
        own = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._from)
            .not_valid_after(self._to)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(own, critical=False)
        )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
