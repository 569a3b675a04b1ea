"""Where effects happen: tools from Python, files of a run, guarded HTTP.

Every effect passes through here with a ``Context`` that names the run, the attempt and the latest moment it
may begin. The package imports ``schemas`` and ``errors`` only; who calls it and what becomes of a result is
the executor's business.
"""
