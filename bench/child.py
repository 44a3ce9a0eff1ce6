"""One peer in a process of its own: answers requests to measure, a JSON object on each line.

    stdin   {"measure": "single", "args": {"in_flight": 1000}}
    stdout  {"figures": {"per_second": 512000.0, "cpu": 1.4e-06}}   or   {"error": "why"}

The first line is {"peer": "...", "workers": 2, "options": {...}}. The measure "rest" closes the
pool, until it is needed again. Ends with stdin.
"""

import contextlib
import ctypes
import json
import os
import sys
import traceback
from typing import Any

from bench import limits, measurements
from bench.session import Session

PR_SET_CHILD_SUBREAPER = 36


def _measure(session: Session, measure: str, args: dict[str, Any]) -> dict[str, Any]:
    where = measurements if session.peer is not None else limits
    try:
        return {"figures": getattr(where, measure)(session, **args)}
    except Exception as exc:
        traceback.print_exc()
        return {"error": f"{type(exc).__name__}: {exc}".splitlines()[0][:200]}


def main() -> None:
    """Serve until stdin ends."""
    # what a pool leaves behind stays in our tree, where the runner finds it
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    answers = os.fdopen(os.dup(1), "w")
    requests = os.fdopen(os.dup(0))
    os.dup2(2, 1)  # pools and their workers may print
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    session = Session(**json.loads(requests.readline()))
    for line in requests:
        request = json.loads(line)
        if request["measure"] == "rest":
            session.close()
            answer: dict[str, Any] = {"figures": {}}
        else:
            answer = _measure(session, **request)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    with contextlib.suppress(Exception):
        session.close()


if __name__ == "__main__":
    sys.path = [path for path in sys.path if path]
    main()
