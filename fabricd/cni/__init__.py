"""`fabric-cni`: the CNI plugin, a thin client of the daemon, of the standard library alone."""
