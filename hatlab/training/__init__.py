"""Training of many runs side by side: fast, recorded, and resumed where it stopped."""
