"""What knows nothing of HAT: files, paths, provenance, values as people type them, progress."""
