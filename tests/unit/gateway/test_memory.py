"""What the process asks of the C library at its start: that a large block goes back to the system when it is freed."""

import platform
import subprocess
import sys

import pytest

MIB = 2**20
SCRIPT = """
import sys
from proxy.gateway.process import _return_large_blocks

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

if sys.argv[1] == "returned":
    _return_large_blocks()
bytes(8_000_000)  # the first that is freed: glibc learns its size
before = resident()
bodies = [b"x" * 8_000_000 for _ in range(4)]
above = b"y" * 200_000
del bodies
print(resident() - before)
"""


def growth(how: str) -> int:
    """Return the bytes that stay of four bodies of 8 MB, once they are freed below a block in use."""
    ran = subprocess.run([sys.executable, "-c", SCRIPT, how], check=True, capture_output=True, text=True, timeout=60)
    return int(ran.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has its own rules")
def test_large_bodies_leave_the_process_when_they_are_freed() -> None:
    assert growth("kept") > 16 * MIB  # glibc's default, which the next line is measured against
    assert growth("returned") < 2 * MIB
