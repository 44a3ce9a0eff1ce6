"""Ways to start workers: here, over ssh, behind a spawn server."""
