"""What the regularizer's mode `cross` changes (03_cross_ablation)."""
