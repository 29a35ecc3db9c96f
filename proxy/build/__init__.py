"""The build of the single file: the gateway, the interpreter and every library in one executable. `python -m proxy.build` makes it.

`parts.py` finds the files to pack, `native.py` the system's libraries; `assemble.py` joins them with `launcher.c`; `bill.py` lists
what is inside. Of this package only `entry.py` is packed.
"""
