"""The daemon: wires sources, core, kernel and charon together and keeps them going."""
