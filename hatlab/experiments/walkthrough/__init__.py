"""The exercises and figures of 01_walkthrough."""
