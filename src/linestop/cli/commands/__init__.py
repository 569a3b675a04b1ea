"""The declarations of the commands: names, arguments, options, help. The implementations are in the folder above.

Nothing here imports more than click, so that help and completion are fast.
"""
