"""An sshd on this machine, for experiments with remote workers: the one that the tests have."""

import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import envs

TESTS = str(Path(__file__).resolve().parents[1] / "tests")
VARIABLE = "BENCH_SSHD"  # by which the peers find it
SSH_CONFIG = """
Host *
    IdentityFile "{key}"
    IdentitiesOnly yes
    UserKnownHostsFile "{known}"
"""


@contextlib.contextmanager
def running() -> Iterator[dict[str, str]]:
    """Have it run.

    Returns:
        environment variables for the peers.

    Raises:
        OSError: there is none.
        ImportError: the tests, or what they need, are not there.
    """
    if TESTS not in sys.path:
        sys.path.append(TESTS)
    from ssh.support import SSHD, Sshd

    if SSHD is None:
        raise OSError("there is no sshd: apt-get install openssh-server")
    # distex 0.7.2 runs the ssh command here, and there its own from the PATH of a login shell
    theirs = Path(envs.prepare(envs.HOME["distex 0.7.2"]).python).parent
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        sshd = Sshd(folder, environment={
            "PYTHONPATH": str(envs.child_path()),
            "OPENBLAS_NUM_THREADS": "1",
        })
        (sshd.home / ".profile").write_text(f'PATH="{theirs}:$PATH"\nexport PATH\n')
        config = folder / "openssh_config"
        config.write_text(SSH_CONFIG.format(key=sshd.user_key, known=sshd.known_hosts))
        (folder / "bin").mkdir()
        ssh = folder / "bin" / "ssh"
        ssh.write_text(f'#!/bin/sh\nexec "{shutil.which("ssh")}" -F "{config}" "$@"\n')
        ssh.chmod(0o755)
        sshd.start()
        try:
            yield {
                VARIABLE: json.dumps({
                    "url": sshd.url(), "key": str(sshd.user_key), "known": str(sshd.known_hosts),
                    "config": str(sshd.client_config), "python": sys.executable}),
                "PATH": f"{folder / 'bin'}:{os.environ.get('PATH', os.defpath)}",
                "TMPDIR": str(sshd.tmp),
            }
        finally:
            sshd.stop()


def found() -> dict[str, Any]:
    """For a peer: its URL, and the files that are needed to log in."""
    settings: dict[str, Any] = json.loads(os.environ[VARIABLE])
    return settings
