"""Every Python block in README.md and docs/ is a script that runs by itself, in a folder of its own.

Those that need other machines are run by tests/ssh/test_readme.py and tests/tcp/test_readme.py.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TIMEOUT = 60  # seconds; a block takes about one


def blocks():
    """Each block, named after its page and the line it begins on."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in BLOCK.finditer(text):
            if any(host in match[1] for host in ('["ssh://', '"mini/2"', "localport")):
                continue
            line = text.count("\n", 0, match.start(1)) + 1
            yield pytest.param(match[1], id=f"{page.stem}-line{line}")


@pytest.mark.parametrize("source", list(blocks()))
def test_block(source, tmp_path):
    script = tmp_path / "block.py"
    script.write_text(source, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", script.name], cwd=tmp_path, timeout=TIMEOUT,
        stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_there_are_blocks():
    assert len(list(blocks())) >= 5


def test_files_that_are_linked_to_exist():
    links = [(page, link) for page in PAGES
             for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8"))]
    assert any(page.name == "README.md" for page, _ in links)
    for page, link in links:
        assert (page.parent / link).exists(), (page, link)
