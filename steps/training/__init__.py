"""Training: the linear probe, heads, fine-tuning and its recipes, the strategy, and the rivals of transfer."""
