"""Which weights later tasks reuse (05_weight_reuse, Fig. 6)."""
