"""Environments for what is compared with: made once, under build/bench-envs.

distex 0.7.2 has the import name of what is measured, so it lives in an environment of its own. What
can't be installed is left out, and pip's reason is kept for the table.
"""

import functools
import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / "build" / "bench-envs"

# environment: {what pip is asked for: [what is installed with it]}
PACKAGES = {
    "distex-0.7.2": {"distex==0.7.2": ["uvloop", "numpy"]},
    "peers": {
        "numpy": [], "loky": [], "joblib": [], "mpire": [], "Pebble": [], "ray": [],
        "distributed": [],
    },
    "plots": {"matplotlib": []},
}
HOME = {  # where the peers live that need an environment: the others run in this interpreter
    "distex 0.7.2": "distex-0.7.2",
    "distex 0.7.2 async": "distex-0.7.2",
    "distex 0.7.2 ssh async": "distex-0.7.2",
    "loky": "peers",
    "joblib": "peers",
    "mpire": "peers",
    "Pebble": "peers",
    "Ray": "peers",
    "Dask": "peers",
}


@dataclass
class Environment:
    """An interpreter, and what pip said of the packages that it could not get."""

    python: str
    versions: dict[str, str]
    missing: dict[str, str]


@functools.cache
def prepare(name: str) -> Environment:
    """The environment with that name, made if it is not there yet."""
    folder = CACHE / name
    python = str(folder / "bin" / "python")
    record = folder / "installed.json"
    if not record.exists():
        print(f"preparing {folder.relative_to(ROOT)}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        missing = {}
        for package, more in PACKAGES[name].items():
            pip = subprocess.run(
                [python, "-m", "pip", "install", "-q", package, *more],
                capture_output=True, text=True)
            if pip.returncode:
                lines = pip.stderr.strip().splitlines()
                missing[package] = lines[-1] if lines else "pip failed"
        listed = subprocess.run(
            [python, "-m", "pip", "list", "--format=json"],
            capture_output=True, text=True, check=True)
        versions = {row["name"]: row["version"] for row in json.loads(listed.stdout)}
        record.write_text(json.dumps({"versions": versions, "missing": missing}, indent=1))
    return Environment(python, **json.loads(record.read_text()))


def child_path() -> Path:
    """A folder from which bench can be imported, but not the distex of this tree."""
    folder = CACHE / "path"
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / "bench"
    if not link.exists():
        # several may do so at the same time, and the checkout may have been elsewhere before
        made = folder / f"bench-{os.getpid()}"
        made.symlink_to(ROOT / "bench")
        made.replace(link)
    return folder


def command(peer: str, more: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    """The command that starts a child for that peer, and its environment variables with more."""
    path = [str(child_path())]
    python = prepare(HOME[peer]).python if peer in HOME else sys.executable
    if peer.startswith("distex") and peer not in HOME:
        spec = importlib.util.find_spec("distex")
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError("distex is not there: pip install -e .")
        path.append(str(Path(spec.origin).parent.parent))
    inherited = {**os.environ, **more}
    variables = {
        **inherited,
        # as in an installed package, the modules are compiled once and not at each start
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPATH": os.pathsep.join(path),
        # distex 0.7.2 looks its worker's script up
        "PATH": os.pathsep.join([str(Path(python).parent), inherited.get("PATH", os.defpath)]),
        "BENCH_CACHE": str(CACHE),
        "OPENBLAS_NUM_THREADS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONWARNINGS": "ignore",
    }
    return [python, "-m", "bench.child"], variables
