"""What runs in the other processes: the nanny of each host, and its workers."""
