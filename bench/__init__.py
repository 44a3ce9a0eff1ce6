"""Side-by-side benchmarks of distex and other process pools: ``python -m bench``.

    __main__ ──> runner ──> envs: an environment for each peer's packages
                   │  plan: which experiments, rows and cases there are
                   │  JSON lines on stdin and stdout
                   ├─────> sshd: where remote workers are measured
                   └─────> child (a process for each row) ──> measurements ──> peers, limits
                   │
                   └─> results.json ──> report (tables), plots (pictures), bars (what has to hold)
"""
