"""The training stages, what they share, and the one door to the test split."""
