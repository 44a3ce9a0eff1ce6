"""Ways to have workers started: here, over ssh, behind a spawn server."""
