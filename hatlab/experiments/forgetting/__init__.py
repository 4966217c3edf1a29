"""Forgetting (07_forgetting, Fig. 3, Table 1), and c and s_max (04_hyperparameters, Fig. 4)."""
