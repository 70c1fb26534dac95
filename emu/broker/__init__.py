r"""The process of one node: loop, sessions, effects carried out, timers, journal, history.

Started by `emu broker` (emu/cli/broker.py). Three options are for whoever starts it as a child (emu.node(), the lab, the tests):

- `--ready FD`: one line `ready\n` is written to this inherited descriptor, and it is closed, once the door and the ZeroMQ
  address answer; so nobody has to poll for the door.
- `--lifeline FD`: when this inherited descriptor reads end of file, the broker ends as on SIGTERM: a parent that is
  killed takes its private node along (PR_SET_PDEATHSIG would fire at the end of the starting *thread*).
- `--ephemeral`: DIR and all in it are removed at a clean end (SIGTERM, or the lifeline's).
"""
