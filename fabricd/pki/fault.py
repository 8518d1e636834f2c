"""What can't be done with the files and certificates at hand."""

from __future__ import annotations


class PkiError(Exception):
    """`faults` holds one line a fault: the file, what is wrong with it, what to do."""

    def __init__(self, *faults: str) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults
