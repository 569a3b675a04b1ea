"""Who decides: one module a role, each a pure function of one run's log.

``role`` says what a role is, ``facts`` what it may know besides the log. ``validator``, ``approver``,
``budget``, ``executor``, ``planner`` and ``recorder`` are the six; ``context`` assembles a prompt from a run.
Nothing here reads a clock, draws a random number, logs or performs I/O: the shell (``linestop.runtime.run_loop``)
hands in what is needed and appends what is decided.
"""
