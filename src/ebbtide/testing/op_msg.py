"""One connection to a mongod that sends commands as they are given: for fields that a driver keeps to itself.

A message (OP_MSG, little-endian): length i32 | request i32 | answers i32 | 2013 i32 | flags u32 | 0 u8 | BSON

Login is by SCRAM-SHA-256 (RFC 5802, RFC 7677). For labs on loopback: no TLS, no compression, no retries.

One thread at a time uses a connection. Crash: the server drops what the connection left open.
"""

import base64
import hashlib
import hmac
import secrets
import socket
import struct
from typing import Any

import bson
from bson import Binary
from pymongo.errors import OperationFailure

from ebbtide.errors import MongodError

Document = dict[str, Any]

_HEADER = struct.Struct("<iiiiIb")
_LENGTH = struct.Struct("<i")
_OP_MSG = 2013
_MECHANISM = "SCRAM-SHA-256"
_NONCE_BYTES = 24


class OpMsgConnection:
    """A TCP connection to `address` ("host:port"), to be logged in to and closed by whoever made it.

    `timeout_seconds` bounds each wait for a reply.
    """

    def __init__(self, address: str, *, timeout_seconds: float) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=timeout_seconds)
        self._request = 0

    def close(self) -> None:
        self._socket.close()

    def log_in(self, username: str, password: str, *, database: str) -> None:
        """Raises OperationFailure for a wrong password, MongodError for a server that does not know it."""
        nonce = base64.b64encode(secrets.token_bytes(_NONCE_BYTES)).decode()
        client_first = f"n={username},r={nonce}"
        reply = self.command(
            database,
            {
                "saslStart": 1,
                "mechanism": _MECHANISM,
                "payload": Binary(f"n,,{client_first}".encode()),
                "options": {"skipEmptyExchange": True},
            },
        )
        final, expected = scram_proof(
            password, client_first=client_first, server_first=reply["payload"].decode()
        )
        conversation = {"saslContinue": 1, "conversationId": reply["conversationId"]}
        reply = self.command(database, {**conversation, "payload": Binary(final.encode())})
        if not reply["done"] or reply["payload"].decode() != expected:
            raise MongodError("the server did not prove that it knows the password")

    def command(self, database: str, command: Document) -> Document:
        """The reply to a command. Raises OperationFailure, with the reply as its `details`, for `ok: 0`."""
        self._request += 1
        self._socket.sendall(encode_op_msg({**command, "$db": database}, request=self._request))
        (length,) = _LENGTH.unpack(self._receive(_LENGTH.size))
        reply = decode_op_msg(self._receive(length - _LENGTH.size))
        if not reply.get("ok"):
            raise OperationFailure(reply.get("errmsg", "no message"), reply.get("code"), reply)
        return reply

    def _receive(self, size_bytes: int) -> bytes:
        received = bytearray()
        while len(received) < size_bytes:
            piece = self._socket.recv(size_bytes - len(received))
            if not piece:
                raise ConnectionResetError("the server closed the connection")
            received += piece
        return bytes(received)


def encode_op_msg(command: Document, *, request: int) -> bytes:
    """A whole message with one document."""
    body = bson.encode(command)
    return _HEADER.pack(_HEADER.size + len(body), request, 0, _OP_MSG, 0, 0) + body


def decode_op_msg(message: bytes) -> Document:
    """The document of a message without its length. Raises MongodError for a message of another kind."""
    _, _, code, flags, kind = struct.unpack_from("<iiiIb", message)
    if (code, flags, kind) != (_OP_MSG, 0, 0):
        raise MongodError(f"a reply of an unknown kind: opcode {code}, flags {flags}, section {kind}")
    return bson.decode(message[_HEADER.size - _LENGTH.size :])


def scram_proof(password: str, *, client_first: str, server_first: str) -> tuple[str, str]:
    """The client's last message of SCRAM-SHA-256, and the server's last that must answer it.

    `client_first` is the first message without its header "n,,". The password is of ASCII.
    """
    fields = dict(field.split("=", 1) for field in server_first.split(","))
    salt, iterations = base64.b64decode(fields["s"]), int(fields["i"])
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    unproved = f"c=biws,r={fields['r']}"
    said = f"{client_first},{server_first},{unproved}"
    client_key = _hmac(salted, "Client Key")
    signature = _hmac(hashlib.sha256(client_key).digest(), said)
    proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
    server_signature = _hmac(_hmac(salted, "Server Key"), said)
    return (
        f"{unproved},p={base64.b64encode(proof).decode()}",
        f"v={base64.b64encode(server_signature).decode()}",
    )


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")
