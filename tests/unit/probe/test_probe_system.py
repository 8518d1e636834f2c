"""Settings of strongSwan and sockets as ss(8) prints them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fabricd.probe.strongswan_conf import charons_settings
from fabricd.probe.system import door, owner, read_sockets, synchronised

SS = """\
UNCONN 0      0              0.0.0.0:4500       0.0.0.0:*    users:(("charon-systemd",pid=97,fd=15))
UNCONN 0      0                 [::]:500           [::]:*    users:(("charon-systemd",pid=97,fd=12))
UNCONN 0      0            127.0.0.1:500        0.0.0.0:*    users:(("iked",pid=8,fd=3),("x",pid=9))
UNCONN 0      0      10.20.8.4%eth0:500        0.0.0.0:*
"""


def test_who_holds_the_ports() -> None:
    assert read_sockets(SS) == {
        500: {"charon-systemd": 97, "iked": 8, "x": 9, "?": 0},
        4500: {"charon-systemd": 97},
    }
    assert read_sockets("") == {500: {}, 4500: {}}


CONF = """\
# made by hand
charon {
    load_modular = yes
    install_routes = yes
    retransmit_tries = 9  # the last one counts
    plugins { include more/*.conf
    }
}
charon { retransmit_tries = 3 }
charon-systemd : other {
    install_routes = no
    retransmit_base = "1.4"
}
charon { retransmit_base = 2 }
pki { load = x }
include missing.conf
"""


def conf(folder: Path, text: str = CONF) -> Path:
    (folder / "more").mkdir(exist_ok=True)
    (folder / "more/vici.conf").write_text("vici {\n socket = unix:///run/charon.vici\n}\n")
    (folder / "strongswan.conf").write_text(text)
    return folder / "strongswan.conf"


def test_settings_of_charon(tmp_path: Path) -> None:
    assert charons_settings(conf(tmp_path)) == {
        "load_modular": "yes",
        "retransmit_tries": "3",
        "plugins.vici.socket": "unix:///run/charon.vici",
        "install_routes": "no",
        "retransmit_base": "1.4",
    }


def test_an_include_by_its_whole_path(tmp_path: Path) -> None:
    file = conf(tmp_path, f'charon {{ plugins {{\ninclude "{tmp_path}/more/vici.conf"\n}} }}')
    assert charons_settings(file) == {"plugins.vici.socket": "unix:///run/charon.vici"}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("x = 1\n}\n", "strongswan.conf:2: not as strongswan.conf(5) has it"),
        ("x = 1\n\ny z\n", "strongswan.conf:3: not as strongswan.conf(5) has it"),
        ("charon {\n", "strongswan.conf: section charon is not closed"),
        ("include strongswan.conf\n", "strongswan.conf: files include one another without an end"),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path}/{fault}")):
        charons_settings(conf(tmp_path, text))


def test_files_that_are_not_there(tmp_path: Path) -> None:
    assert door(tmp_path / "charon.vici") is None
    assert owner(tmp_path / "node.key") == ""
    assert owner(Path("/")) == "root"


def test_the_clock_can_be_asked() -> None:
    assert synchronised() in {True, False}
