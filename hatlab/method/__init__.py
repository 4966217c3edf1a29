"""HAT, in the order of the paper: gate, regularizer, protection, networks, updates, loop; capacity."""
