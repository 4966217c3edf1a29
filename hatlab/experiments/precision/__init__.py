"""What the precision of the gate changes (08_precision)."""
