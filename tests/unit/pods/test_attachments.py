"""Entries of attached pods on disk: there and back, and files that can't be read."""

from __future__ import annotations

import stat
from pathlib import Path

import msgspec
import pytest

from fabricd.core.pods import Attachment
from fabricd.pods.attachments import Attachments, Entry, written_down

ENTRY = Entry(
    name="c0ffee.eth0",
    netns="/run/netns/c0ffee",
    ifname="eth0",
    addresses=("2.2.2.2/27", "fd00:2::2/64"),
    holder="c0ffee",
    boot="boot1",
    network="fabric",
    leaving=True,
)
OTHER = Entry("pod1", "/run/netns/1", "net1", ("2.2.2.3/27",), "pod1", "boot1")


@pytest.fixture
def attachments(tmp_path: Path) -> Attachments:
    return Attachments(tmp_path / "state")


def test_there_and_back(attachments: Attachments) -> None:
    assert attachments.load() == ({}, [])
    attachments.save(ENTRY)
    attachments.save(OTHER)
    assert attachments.load() == ({"c0ffee.eth0": ENTRY, "pod1": OTHER}, [])
    assert OTHER.attachment == Attachment("pod1", "/run/netns/1", "net1", ("2.2.2.3/27",))
    attachments.remove("c0ffee.eth0")
    attachments.remove("c0ffee.eth0")
    assert attachments.load() == ({"pod1": OTHER}, [])


def test_a_file_is_for_root_alone_and_replaced_as_one(attachments: Attachments) -> None:
    attachments.save(OTHER)
    (path,) = attachments.folder.iterdir()
    assert path.name == "pod1.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (attachments.folder / ".pod1.json.abcdef").write_text("{")  # a write that broke off
    assert attachments.load() == ({"pod1": OTHER}, [])


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff", b'{"name": "pod2"}', b'{"name": 1, "netns": "/x"}'],
)
def test_a_file_that_cannot_be_read_is_told_of_and_the_others_count(
    content: bytes, attachments: Attachments
) -> None:
    attachments.save(OTHER)
    bad = attachments.folder / "pod2.json"
    bad.write_bytes(content)
    entries, (fault,) = attachments.load()
    assert entries == {"pod1": OTHER}
    assert fault.startswith(f"{bad}: ")
    assert fault.endswith("remove it, and attach that pod again")
    assert written_down(attachments.folder) is None


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"addresses": ["2.2.2.300/27"]}, "'2.2.2.300/27' does not appear to be"),
        ({"addresses": []}, "addresses are one a family, not []"),
        ({"addresses": ["2.2.2.2/27", "2.2.2.3/27"]}, "addresses are one a family"),
        ({"name": "pod9"}, "it is named 'pod9'"),
        ({"netns": [[]] * 2}, "Expected `str`, got `array`"),
    ],
)
def test_nor_is_an_entry_believed_that_somebody_has_changed(
    wrong: dict[str, object], why: str, attachments: Attachments
) -> None:
    attachments.save(OTHER)
    attachments.save(ENTRY)
    path = attachments.folder / "pod1.json"
    path.write_bytes(msgspec.json.encode(msgspec.to_builtins(OTHER) | wrong))
    entries, (fault,) = attachments.load()
    assert entries == {ENTRY.name: ENTRY}
    assert why in fault


def test_nor_is_one_nested_too_deep_to_be_read(attachments: Attachments) -> None:
    attachments.folder.mkdir(parents=True)
    deep = "[" * 200_000 + "]" * 200_000
    (attachments.folder / "pod1.json").write_text(f'{{"x": {deep}}}')
    entries, (fault,) = attachments.load()
    assert entries == {}
    assert "recursion" in fault


def test_whose_addresses_are_written_down(attachments: Attachments) -> None:
    assert written_down(attachments.folder) == frozenset()
    attachments.save(ENTRY)
    attachments.save(OTHER)
    assert written_down(attachments.folder) == frozenset({"2.2.2.2", "fd00:2::2", "2.2.2.3"})
