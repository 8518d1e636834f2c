"""The pure heart: records in, actions out. No I/O, no clock, no randomness, no logging."""
