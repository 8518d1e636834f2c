"""The whole daemon in a simulated world.

Several daemons (`fabricd.daemon.daemon.Daemon`, unchanged) run in one trio run on a mock clock,
each on a kernel, a charon, a machine and a store in memory, which behave as the real ones do:
`conformance/` plays the same tests on both. The charons speak to one another, so an SA is there at
both ends, or is not.

A seed gives a scenario (`scenario.py`): who is there, and what happens (`steps.py`): records are
written, wrong ones too, the store, charons, the network, clocks, disks and hands do what they do
in bad times, daemons are killed between any two actions. All the while `judge.py` looks:

- nothing that is not ours is touched, nothing that is right is disturbed;
- no packet of the fabric can leave in clear text;
- no two nodes are sent the same subnet;
- the status says up only of what is up;
- when faults are over, everything is as desired within `run.BOUND` seconds, and then nobody does
  anything any more.

    make simulate SEEDS=10000            # seeds 0 to 9999
    make simulate SEED=17                # what happens in one
    make simulate SEED=17 STEPS=0,4      # with these steps alone

A failure prints its seed and the last of these commands, with as few steps as still fail. The same
seed gives the same run, whatever the machine and PYTHONHASHSEED. That holds as long as the code is
the same: another order of draws in `scenario.py` makes other scenarios.
"""
