"""Running both models on the same input, for those who have both at hand."""
