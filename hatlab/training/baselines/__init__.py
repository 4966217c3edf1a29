"""What HAT is compared with: joint training, and EWC."""
