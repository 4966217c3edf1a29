"""What experiments share: metrics, statistics, verdicts, the paper's numbers, masks of finished runs."""
