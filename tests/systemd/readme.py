"""The commands of the README's section "As a service", by the word that introduces each block."""

import re
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"
BLOCKS = ("Install", "Upgrade", "Roll back", "Back up", "Restore")


def commands() -> dict[str, str]:
    """Return what an operator would paste, for each of `BLOCKS`."""
    (section,) = re.findall(r"^## As a service\n(.*?)^## ", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    parts = re.split(r"^```sh\n(.*?)^```\n", section, flags=re.DOTALL | re.MULTILINE)
    found = {}
    for text, block in zip(parts[::2], parts[1::2], strict=False):
        (name,) = [name for name in BLOCKS if re.search(rf"\b{name}\b", text.strip().rsplit("\n\n", 1)[-1])]
        found[name] = block
    assert tuple(found) == BLOCKS
    return found
