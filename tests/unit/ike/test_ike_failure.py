"""Reasons told from logs that a real charon (5.9.8) wrote: `transcripts/`, a line a message.

The last line, after `=>`, is charon's answer to the command.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from fabricd.ike.failure import explain

TRANSCRIPTS = Path(__file__).parent / "transcripts"

REASONS = {
    "no-answer": "no answer from 192.0.2.77 to IKE_SA_INIT within 3 s",
    "no-answer-given-up": "no answer from 192.0.2.77 to IKE_SA_INIT after 4 retransmissions",
    "no-answer-to-auth": "no answer from 192.0.2.2 to IKE_AUTH within 3 s",
    "no-connection-here": "CHILD_SA config '2.2.2.0/27-2.2.2.32/27-d1' not found",
    "no-connection-there": "peer answered NO_PROPOSAL_CHOSEN: "
    "it has no connection for this node's address, or other proposals",
    "no-private-key": "no private key found for 'C=CN, O=StrongSwan, CN=left'",
    "no-such-name": "unable to resolve nowhere.invalid",
    "not-installed": "error installing route with policy 2.7.2.0/27 === 2.2.2.32/27 out",
    "not-installed-there": "peer answered TS_UNACCEPTABLE: it does not agree to these subnets",
    "other-identity": "peer answered AUTHENTICATION_FAILED: "
    "it does not accept this node's identity or certificate",
    "other-subnets": "peer answered TS_UNACCEPTABLE: it does not agree to these subnets",
    "other-subnets-second": "peer answered TS_UNACCEPTABLE: it does not agree to these subnets",
    "peer-certificate-expired": "subject certificate invalid "
    "(valid from Jan 01 00:00:00 2020 to Jan 01 00:00:00 2021)",
    "peer-of-other-ca": 'no issuer certificate found for "C=CN, O=StrongSwan, CN=right"',
    "we-of-other-ca": "peer answered AUTHENTICATION_FAILED: "
    "it does not accept this node's identity or certificate",
}


@pytest.mark.parametrize(("name", "reason"), REASONS.items(), ids=REASONS)
def test_reason(name: str, reason: str) -> None:
    *log, answer = (TRANSCRIPTS / f"{name}.log").read_text().splitlines()
    assert explain(log, answer.removeprefix("=> "), 3) == reason


def test_every_transcript_is_tried() -> None:
    assert {path.stem for path in TRANSCRIPTS.iterdir()} == set(REASONS)


def test_a_log_that_tells_nothing_leaves_the_answer() -> None:
    assert explain([], "refused", 3) == "refused"
    assert explain(["something new"], "refused", 3) == "refused"
    answered = [
        "generating IKE_SA_INIT request 0 [ SA KE No ]",
        "sending packet: from 192.0.2.1[500] to 192.0.2.2[500] (996 bytes)",
        "received packet: from 192.0.2.2[500] to 192.0.2.1[500] (297 bytes)",
    ]
    assert explain(answered, "refused", 3) == "refused"


def test_an_unknown_error_of_the_peer_is_passed_on() -> None:
    log = ["received MY_OWN_ERROR notify error"]
    assert explain(log, "refused", 3) == "peer answered MY_OWN_ERROR"
