"""What the specialist knows before it sees a scan: weights that learned from made-up volumes, and how they learned."""
