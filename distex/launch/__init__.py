"""Ways to start a nanny somewhere and hand the pool a stream to it."""
