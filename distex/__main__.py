"""``python -m distex``: tells that the installation is in order, as ``distex_proc`` does;
``python -m distex check ssh://maxi/8`` does so of another machine; ``python -m distex worker``
starts workers that join a pool."""

import sys

if sys.argv[1:2] == ["check"]:
    from distex.check import main

    sys.exit(main(sys.argv[2:]))
elif sys.argv[1:2] == ["worker"]:
    from distex import join

    sys.exit(join.main(sys.argv[2:]))
else:
    from distex.nanny import script

    script()
