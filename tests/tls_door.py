"""A way to PostgreSQL by TCP and TLS: the embedded server has neither, so a door in front of its socket speaks TLS."""

from __future__ import annotations

import contextlib
import datetime
import select
import socket
import socketserver
import ssl
import struct
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

# PostgreSQL, "Message Formats": SSLRequest, and the two answers to it.
_SSL_REQUEST = struct.pack("!ii", 8, 80877103)
_YES, _NO = b"S", b"N"


@dataclass(frozen=True)
class Authority:
    """A certificate authority of one's own; `root` is its certificate's file."""

    root: Path
    _certificate: x509.Certificate
    _key: ec.EllipticCurvePrivateKey

    @classmethod
    def make(cls, directory: Path, name: str) -> Authority:
        """Makes an authority, and writes its certificate into the directory."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _certificate(name, key, name, key, authority=True)
        root = directory / f"{name}.pem"
        root.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return cls(root, certificate, key)

    def server(self, host: str) -> ssl.SSLContext:
        """What a server with a certificate for this host speaks TLS with."""
        key = ec.generate_private_key(ec.SECP256R1())
        issuer = self._certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
        certificate = _certificate(host, key, str(issuer), self._key, authority=False)
        file = self.root.with_name(f"{host}.pem")
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        file.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context


def _certificate(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: str, signer: ec.EllipticCurvePrivateKey, *, authority: bool
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    if not authority:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    return builder.sign(signer, hashes.SHA256())


class _Listener(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def __init__(self, target: str, context: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.target, self.context = target, context

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: the client says what it did not like."""


class _Connection(socketserver.BaseRequestHandler):
    request: socket.socket

    def handle(self) -> None:
        listener = cast(_Listener, self.server)
        first = self.request.recv(len(_SSL_REQUEST), socket.MSG_WAITALL)
        with socket.socket(socket.AF_UNIX) as server:
            server.connect(listener.target)
            if first != _SSL_REQUEST:  # a client that does not ask for TLS
                server.sendall(first)
            elif listener.context is None:
                self.request.sendall(_NO)
            else:
                self.request.sendall(_YES)
                self.request = listener.context.wrap_socket(self.request, server_side=True)
            with contextlib.closing(self.request):
                _carry(self.request, server)


def _carry(client: socket.socket, server: socket.socket) -> None:
    """Hands on what either says, until one of them ends."""
    while True:
        waiting = isinstance(client, ssl.SSLSocket) and client.pending()
        for source in [client] if waiting else select.select([client, server], [], [])[0]:
            data = source.recv(1 << 16)
            if not data:
                return
            (server if source is client else client).sendall(data)


@contextmanager
def tls_door(socket_path: Path, context: ssl.SSLContext | None) -> Generator[int]:
    """Serves PostgreSQL's unix socket on 127.0.0.1 and yields the port; without a context TLS is refused."""
    with _Listener(str(socket_path), context) as listener:
        thread = threading.Thread(target=listener.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield listener.server_address[1]
        finally:
            listener.shutdown()
            thread.join()
