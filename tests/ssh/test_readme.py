"""The README's program that uses other machines, with this one in the place of both."""

import os
import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"
CONFIG = """
Host maxi mini
    HostName 127.0.0.1
    Port {port}
    IdentityFile "{key}"
    UserKnownHostsFile "{known}"
"""


def test_the_program_for_other_machines(make_sshd, tmp_path):
    blocks = re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
    (program,) = [block for block in blocks if '"ssh://' in block]
    sshd = make_sshd(PATH=f"{Path(sys.executable).parent}:/usr/bin:/bin")
    home = tmp_path / "me"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh" / "config").write_text(
        CONFIG.format(port=sshd.port, key=sshd.user_key, known=sshd.known_hosts))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], cwd=tmp_path, timeout=60,
        env={**os.environ, "HOME": str(home), "SSH_AUTH_SOCK": ""},
        stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(os.uname().nodename) == 5
