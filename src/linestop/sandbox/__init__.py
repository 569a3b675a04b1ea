"""Where effects happen: tools from Python, files of a run, guarded HTTP.

Every effect passes through here with a ``Context`` that names the run, the attempt and the latest moment the effect
may begin. The package imports only ``schemas`` and ``errors``; the executor calls it and handles the results.
"""
