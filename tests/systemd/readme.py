"""The commands of `systemd/README.md`: the block under each heading in `BLOCKS`."""

import re
from pathlib import Path

README = Path(__file__).parents[2] / "systemd/README.md"
BLOCKS = ("Install", "Several gateways", "Upgrade", "Roll back", "Back up", "Restore")


def commands() -> dict[str, str]:
    """Return the commands that an operator would paste, for each of `BLOCKS`."""
    sections = re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    found = {name: re.findall(r"^```sh\n(.*?)^```\n", text, re.DOTALL | re.MULTILINE) for name, text in sections}
    blocks = {name: block for name, (block,) in ((name, blocks) for name, blocks in found.items() if blocks)}
    assert tuple(blocks) == BLOCKS
    return blocks
