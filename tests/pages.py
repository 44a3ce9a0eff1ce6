"""The Python blocks of README.md and docs/, by what they need to run."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# what a block needs, by what stands in it: hosts with ssh, a server on one, workers that join
SSH, SERVER, JOINING, HERE = '["ssh://', '"mini/2"', "localport", ""


def blocks(need):
    """The blocks with this need, as parameters named after the page and the line they begin on."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in BLOCK.finditer(text):
            needs = next((mark for mark in (SSH, SERVER, JOINING) if mark in match[1]), HERE)
            if needs == need:
                line = text.count("\n", 0, match.start(1)) + 1
                found.append(pytest.param(match[1], id=f"{page.stem}-line{line}"))
    return found
