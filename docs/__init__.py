"""The web site: `python -m docs` lays out its sources and lets Sphinx render them.

committed, reference -> links -> notebooks -> landing -> build        conf, accessible, docstrings, mathml: for Sphinx
"""
