"""The VICI protocol without I/O: known bytes, limits, and that splits never matter."""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fabricd.ike.protocol import (
    SEGMENT_LIMIT,
    CommandUnknown,
    Confirmed,
    Decoder,
    Event,
    EventUnknown,
    ProtocolError,
    Received,
    Reply,
    Request,
    Section,
    register,
    unregister,
)


def segment(payload: bytes) -> bytes:
    return struct.pack("!I", len(payload)) + payload


def decode(chunks: list[bytes]) -> list[Received | str]:
    """Everything that comes out, an error as its text at the end."""
    decoder = Decoder()
    out: list[Received | str] = []
    for chunk in chunks:
        decoder.receive(chunk)
        try:
            while (packet := decoder.next_packet()) is not None:
                out.append(packet)
        except ProtocolError as error:
            return [*out, str(error)]
    return out


README_EXAMPLE = (
    b"\x03\x04key1\x00\x06value1"
    b"\x01\x08section1"
    b"\x01\x0bsub-section\x03\x04key2\x00\x06value2\x02"
    b"\x04\x05list1\x05\x00\x05item1\x05\x00\x05item2\x06"
    b"\x02"
)
"""The encoding example of the protocol's description."""

README_TREE: Section = {
    "key1": b"value1",
    "section1": {"sub-section": {"key2": b"value2"}, "list1": [b"item1", b"item2"]},
}


def test_the_example_of_the_specification_both_ways() -> None:
    request = Request(
        "version",
        {
            "key1": "value1",
            "section1": {"sub-section": {"key2": "value2"}, "list1": ["item1", "item2"]},
        },
    )
    assert request.encoded == segment(b"\x00\x07version" + README_EXAMPLE)
    assert decode([segment(b"\x01" + README_EXAMPLE)]) == [Reply(README_TREE)]


def test_every_packet_that_charon_sends() -> None:
    stream = b"".join(
        map(segment, (b"\x01", b"\x02", b"\x05", b"\x06", b"\x07\x07list-sa\x03\x01a\x00\x01b"))
    )
    assert decode([stream]) == [
        Reply({}),
        CommandUnknown(),
        Confirmed(),
        EventUnknown(),
        Event("list-sa", b"\x03\x01a\x00\x01b"),
    ]


def test_a_streamed_command_registers_and_unregisters_around_itself() -> None:
    assert Request("list-sas", stream="list-sa").encoded == (
        segment(b"\x03\x07list-sa") + segment(b"\x00\x08list-sas") + segment(b"\x04\x07list-sa")
    )
    assert (register("x"), unregister("x")) == (segment(b"\x03\x01x"), segment(b"\x04\x01x"))


def test_booleans_are_words_and_tuples_are_lists() -> None:
    encoded = Request("c", {"a": True, "b": False, "n": 7, "l": ("x",)}).encoded
    assert encoded == segment(
        b"\x00\x01c\x03\x01a\x00\x03yes\x03\x01b\x00\x02no\x03\x01n\x00\x017"
        b"\x04\x01l\x05\x00\x01x\x06"
    )


@pytest.mark.parametrize(
    ("message", "what"),
    [
        ({"key": b"x" * 65536}, "key: a value of 65536 bytes"),
        ({"list": [b"x" * 65536]}, "list: a value of 65536 bytes"),
        ({"n" * 256: "x"}, "a name of more than 255 bytes"),
        ({str(n): b"x" * 65000 for n in range(9)}, "load-conn: 585056 bytes"),
    ],
)
def test_what_does_not_fit_is_refused_before_it_is_sent(
    message: dict[str, bytes | list[bytes]], what: str
) -> None:
    with pytest.raises(ProtocolError, match=what):
        Request("load-conn", message)


def test_the_largest_value_fits() -> None:
    assert decode([segment(b"\x01\x03\x01k\xff\xff" + b"x" * 65535)]) == [
        Reply({"k": b"x" * 65535})
    ]


@pytest.mark.parametrize(
    ("stream", "what"),
    [
        (struct.pack("!I", SEGMENT_LIMIT + 1), "a segment of 524289 bytes"),
        (segment(b""), "an empty packet"),
        (segment(b"\x00\x07version"), "type 0"),
        (segment(b"\x63"), "type 99"),
        (segment(b"\x07"), "middle of its name"),
        (segment(b"\x07\x09list"), "middle of its name"),
        (segment(b"\x07\x01\xff"), "no text"),
        (segment(b"\x01\x63"), "ends too early"),
        (segment(b"\x01\x63\x01a"), "an element of type 99"),
        (segment(b"\x01\x05\x00\x01i"), "an element of type 5"),
        (segment(b"\x01\x03\x05ab"), "ends too early"),
        (segment(b"\x01\x03\x01\xff\x00\x00"), "no text"),
        (segment(b"\x01\x03\x01a\x00\x05abc"), "ends too early"),
        (segment(b"\x01\x01\x01a"), "ends too early"),
        (segment(b"\x01\x01\x05a"), "ends too early"),
        (segment(b"\x01\x02"), "a section too often"),
        (segment(b"\x01\x04\x01a\x03"), "a list with an element of type 3"),
        (segment(b"\x01\x04\x01a"), "ends too early"),
        (segment(b"\x01\x04\x01a\x05\x00\x05abc"), "ends too early"),
    ],
)
def test_what_is_not_vici_is_one_named_error(stream: bytes, what: str) -> None:
    [error] = decode([stream])
    assert isinstance(error, str)
    assert what in error.lower()


def test_an_error_stays() -> None:
    decoder = Decoder()
    decoder.receive(segment(b"") + segment(b"\x05"))
    for _ in range(2):
        with pytest.raises(ProtocolError, match="an empty packet"):
            decoder.next_packet()


names = st.text(min_size=1, max_size=20)
trees = st.recursive(
    st.dictionaries(names, st.binary(max_size=40) | st.lists(st.binary(max_size=40), max_size=4)),
    lambda below: st.dictionaries(names, below | st.binary(max_size=40), max_size=4),
    max_leaves=12,
)


@given(trees)
def test_what_is_sent_is_what_is_received(tree: dict[str, bytes]) -> None:
    encoded = Request("c", tree).encoded
    assert decode([segment(b"\x01" + encoded[7:])]) == [Reply(tree)]  # type: ignore[arg-type]  # invariance


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    ends = sorted(place % (len(stream) + 1) for place in places)
    return [stream[start:end] for start, end in zip([0, *ends], [*ends, len(stream)], strict=True)]


elements = st.sampled_from(
    [b"\x01\x01s", b"\x02", b"\x03\x01k\x00\x01v", b"\x04\x01l", b"\x05\x00\x01i", b"\x06"]
)
packets = st.builds(
    lambda head, parts, tail: head + b"".join(parts) + tail,
    st.sampled_from([b"\x01", b"\x02", b"\x05", b"\x06", b"\x07\x01e", b"\x07\x02e", b""]),
    st.lists(elements, max_size=8),
    st.binary(max_size=6),
)
streams = st.binary(max_size=60) | st.lists(packets.map(segment), max_size=5).map(b"".join)


@given(streams, st.lists(st.integers(min_value=0), max_size=10))
@example(segment(b"\x05") + segment(b""), [1, 5])
def test_any_bytes_are_packets_or_a_named_error_wherever_they_are_split(
    stream: bytes, places: list[int]
) -> None:
    whole = decode([stream])
    assert decode(cut(stream, places)) == whole
    assert decode([stream[n : n + 1] for n in range(len(stream))]) == whole
