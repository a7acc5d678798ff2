"""`synthetic`: a generalist that has learned to answer prompts on made-up volumes alone."""
