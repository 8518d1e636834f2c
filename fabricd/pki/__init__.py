"""Keys and certificates: what is in them, and the authority that makes them.

What charon reads in a certificate is here in charon's own terms: `blocks` (RFC 3779), `names`
(identities), `certificate` (all that is worth telling). `authority` and its neighbours make
certificates and lists of revoked ones, `folder` keeps them in files. Nothing here knows records,
the daemon or charon's socket, and not what time it is.
"""
