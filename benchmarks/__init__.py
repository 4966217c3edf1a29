"""Speed and memory as ratios of two sides measured in one run, in alternation. `python -m benchmarks --list`."""
