"""Training: recipes, data, the loop and what it leaves behind."""
