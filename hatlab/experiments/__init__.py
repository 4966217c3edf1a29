"""One folder a notebook: its tables, what the paper says of them, its figures."""
