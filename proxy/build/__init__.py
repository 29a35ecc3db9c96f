"""One file to copy: the gateway, the interpreter and every library in one executable. `python -m proxy.build` makes it.

`parts.py` finds what goes in and `native.py` the system's libraries; `assemble.py` puts them together with `launcher.c`; `entry.py` is what
then runs.
"""
