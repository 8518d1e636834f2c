"""Charon over VICI: observe what it holds, load, unload and terminate, initiate, hear of events.

Knows charon and `core`; not the records, the kernel, nor when anything is to be done.
"""

from fabricd.ike.charon import Charon
from fabricd.ike.codec import TEMPLATE
from fabricd.ike.credentials import CredentialError, Credentials, load_credentials
from fabricd.ike.crl import Crl, read_crls
from fabricd.ike.initiator import InitiateFailed

__all__ = [
    "TEMPLATE",
    "Charon",
    "CredentialError",
    "Credentials",
    "Crl",
    "InitiateFailed",
    "load_credentials",
    "read_crls",
]
