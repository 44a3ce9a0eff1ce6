"""The coverage-guided fuzzer, see targets.py; ``make fuzz`` runs it on a core of its own, which is
built with sanitizers and tells which branches are taken.

    atheris (libFuzzer) ──> targets.one ──> the core ──__sanitizer_cov_trace_pc──> coverage.c
            ^                                                                          │
            └──────────────────────────── counters ────────────────────────────────────┘

Environment: FUZZ_SECONDS, by default 60; FUZZ_COVERAGE, the library made of coverage.c;
FUZZ_CORPUS, the folder for what was found to be worth trying. Arguments go to libFuzzer; a file
that made it fail is tried again by naming it.
"""

import ctypes
import logging
import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

# what the core calls has to be there before it, for all to see
sys.setdlopenflags(os.RTLD_NOW | os.RTLD_GLOBAL)
coverage = ctypes.CDLL(os.environ["FUZZ_COVERAGE"], os.RTLD_NOW | os.RTLD_GLOBAL)
from atheris import core_with_libfuzzer  # noqa: E402

sys.setdlopenflags(os.RTLD_NOW)
import atheris  # noqa: E402

with atheris.instrument_imports(include=["distex"], enable_loader_override=False):
    import targets


def main() -> None:
    assert "build" in targets.errors.__file__, "this is not the build of distex to be fuzzed"
    logging.getLogger("distex").setLevel(logging.CRITICAL)
    corpus = Path(os.environ["FUZZ_CORPUS"])
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(targets.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    if coverage.distex_connect(core_with_libfuzzer.__file__.encode()):
        sys.exit("libFuzzer has no counters")
    arguments = sys.argv[1:] or [str(corpus)]
    options = [f"-max_total_time={os.environ.get('FUZZ_SECONDS') or 60}", "-max_len=600",
               "-timeout=20", "-print_final_stats=1", f"-artifact_prefix={corpus.parent}/"]
    atheris.Setup([sys.argv[0], *options, *arguments], targets.one, enable_python_coverage=True)
    with targets.nothing_is_unpickled():
        atheris.Fuzz()


main()
