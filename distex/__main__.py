"""``python -m distex``: tells that the installation is in order, as ``distex_proc`` does."""

from distex.nanny import script

script()
