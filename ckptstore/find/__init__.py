"""Which checkpoints there are, which one is meant, and which may go."""
