"""What both ends of a connection have to agree on."""
