"""The commands as they are typed: names, arguments, options, help. What they do is in the modules beside this folder.

Nothing here imports more than click, so that help and completion answer at once.
"""
