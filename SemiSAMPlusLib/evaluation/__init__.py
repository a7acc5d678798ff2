"""What a trained specialist is worth: predictions, metrics and the report."""
