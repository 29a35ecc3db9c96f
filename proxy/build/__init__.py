"""One file to copy: the gateway, the interpreter and every library in one executable. `python -m proxy.build` makes it.

`parts.py` finds what goes in, `native.py` the system's libraries; `assemble.py` puts them together with `launcher.c`. Of it all only
`entry.py` goes in itself.
"""
