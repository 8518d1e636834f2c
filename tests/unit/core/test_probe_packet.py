"""Probes as bytes."""

from __future__ import annotations

import pytest

from fabricd.core.probe_packet import MAGIC, SIZE, Packet, decode, encode, mark

NUMBER = 0x0123456789ABCDEF


@pytest.mark.parametrize(
    ("packet", "data"),
    [
        (Packet(NUMBER), b"fbd1\x01\x00\x00\x00\x01\x23\x45\x67\x89\xab\xcd\xef"),
        (Packet(NUMBER, deaf=True), b"fbd1\x01\x01\x00\x00\x01\x23\x45\x67\x89\xab\xcd\xef"),
        (Packet(NUMBER, sender=0xBEEF), b"fbd1\x01\x00\xbe\xef\x01\x23\x45\x67\x89\xab\xcd\xef"),
        (Packet(NUMBER, answer=True), b"fbd1\x02\x00\x00\x00\x01\x23\x45\x67\x89\xab\xcd\xef"),
    ],
)
def test_there_and_back(packet: Packet, data: bytes) -> None:
    assert encode(packet) == data
    assert decode(data) == packet


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        encode(Packet(1))[:-1],
        encode(Packet(1)) + b"\0",
        b"fbd2" + encode(Packet(1))[4:],
        MAGIC + b"\x03\x00" + bytes(10),
        MAGIC + b"\x01\x02" + bytes(10),
        MAGIC + b"\x02\x01" + bytes(10),
        bytes(SIZE),
    ],
)
def test_something_else(data: bytes) -> None:
    assert decode(data) is None


def test_gateways_have_marks_of_their_own() -> None:
    marks = {mark(f"node{number}") for number in range(64)}
    assert len(marks) == 64
    assert 0 not in marks
    assert all(decode(encode(Packet(NUMBER, sender=number))) for number in marks)
