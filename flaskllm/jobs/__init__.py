"""What wakes those who work on batches, and RQ's own way of working on them."""
