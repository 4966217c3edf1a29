"""How small a network gets (06_compression, Fig. 7)."""
