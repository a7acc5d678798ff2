"""What a training is told, what it writes, and where."""
