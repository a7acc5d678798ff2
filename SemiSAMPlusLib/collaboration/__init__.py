"""Where specialist and generalist meet: prompts, confidence, trust and regularization."""
