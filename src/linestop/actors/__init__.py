"""The roles: one module each, and each a pure function of one run's log.

``role_protocol`` defines a role, ``facts`` what it may know besides the log. ``validator``, ``approver``,
``budget``, ``executor``, ``planner`` and ``recorder`` are the six roles; ``prompt`` assembles a prompt from a run.
Nothing here reads a clock, draws a random number, logs or performs I/O: the shell (``linestop.runtime.run_loop``)
hands in the facts and appends the decisions.
"""
