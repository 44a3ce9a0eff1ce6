"""The programs of README and docs that use other machines by ssh, with this one in their place."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pages import SSH, blocks

CONFIG = """
Host maxi mini
    HostName 127.0.0.1
    Port {port}
    IdentityFile "{key}"
    UserKnownHostsFile "{known}"
"""


@pytest.mark.parametrize("program", blocks(SSH))
def test_a_program_for_other_machines(program, make_sshd, tmp_path):
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
    assert done.stdout.count(os.uname().nodename) >= 5
