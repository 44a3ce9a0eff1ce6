"""Every Python block in README.md and docs/ is a script that runs by itself, in a folder of its own.

Those that need other machines are run by tests/ssh/test_pages.py and tests/tcp/test_pages.py.
"""

import re
import subprocess
import sys

import pytest
from pages import HERE, PAGES, blocks

import distex

TIMEOUT = 60  # seconds; a block takes about one


@pytest.mark.parametrize("source", blocks(HERE))
def test_block(source, tmp_path):
    script = tmp_path / "block.py"
    script.write_text(source, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", script.name], cwd=tmp_path, timeout=TIMEOUT,
        stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_there_are_blocks():
    assert len(blocks(HERE)) >= 30


def test_files_that_are_linked_to_exist():
    links = [(page, link) for page in PAGES
             for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8"))]
    assert any(page.name == "README.md" for page, _ in links)
    for page, link in links:
        assert (page.parent / link).exists(), (page, link)


def test_the_reference_has_every_public_name():
    reference = (page for page in PAGES if page.parent.name == "reference")
    text = "\n".join(page.read_text(encoding="utf-8") for page in reference)
    documented = set(re.findall(r"^\.\. auto\w+:: distex\.(\w+)$", text, re.MULTILINE))
    assert documented | {"__version__"} == set(distex.__all__)


def test_the_readme_is_short():
    assert len((PAGES[0]).read_text(encoding="utf-8").splitlines()) <= 220
