"""The wire format, and the login's arithmetic by the example of RFC 7677."""

import pytest

from ebbtide.errors import MongodError
from ebbtide.testing.op_msg import decode_op_msg, encode_op_msg, scram_proof


def test_a_message_is_decoded_to_what_was_encoded() -> None:
    message = encode_op_msg({"ping": 1, "$db": "admin"}, request=7)
    assert len(message) == int.from_bytes(message[:4], "little")
    assert decode_op_msg(message[4:]) == {"ping": 1, "$db": "admin"}


def test_a_message_of_another_kind_is_refused() -> None:
    message = bytearray(encode_op_msg({"ping": 1}, request=7))
    message[12] ^= 1
    with pytest.raises(MongodError, match="unknown kind"):
        decode_op_msg(bytes(message[4:]))


def test_the_proof_is_that_of_the_rfc() -> None:
    final, expected = scram_proof(
        "pencil",
        client_first="n=user,r=rOprNGfwEbeRWgbNEkqO",
        server_first="r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
    )
    assert final.endswith(",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
    assert expected == "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
