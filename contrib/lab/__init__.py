"""A fabric in network namespaces: real etcd, real charon, real pods, on one machine.

The pieces are synchronous and stand alone; tests, the demo and `make lab` put them together.
Every piece keeps its files in a run directory that it is handed, and records there what it
made outside of it (`NAME.pid`, `NAME.netns`), so that `lab.rundir` can remove a dead run.
"""
