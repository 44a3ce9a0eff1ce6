"""``python -m distex.server``; see commands/server.py."""

import sys

from distex.commands.server import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
