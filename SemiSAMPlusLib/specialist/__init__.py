"""The network that learns: its architecture, its methods of learning, and its inference."""
