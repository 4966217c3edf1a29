"""How much of the network is in use (02_capacity_usage, Fig. 5)."""
