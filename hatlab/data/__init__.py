"""Images as uint8 arrays, and the sequences of tasks made of them."""
