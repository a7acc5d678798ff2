"""Made-up volumes without end, and the job of learning from them: no real scan, no real label."""
