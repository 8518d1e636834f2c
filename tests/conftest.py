"""For all tests."""

from __future__ import annotations

import signal

# A shell without job control starts what runs in its background with SIGINT ignored, and that is
# inherited: programs that are interrupted in a test would not hear of it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
