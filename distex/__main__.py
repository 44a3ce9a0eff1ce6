"""``python -m distex``: the commands, a module of ``distex.commands`` each.

    python -m distex                        check the installation
    python -m distex check ssh://maxi/8     check a host step by step
    python -m distex worker --connect ...   start workers that join a pool
"""

import sys
from importlib import import_module

COMMANDS = ("check", "worker")

if sys.argv[1:2] and sys.argv[1] in COMMANDS:
    sys.exit(import_module(f"distex.commands.{sys.argv[1]}").main(sys.argv[2:]))
else:
    from distex.commands.proc import main

    main()
