"""Way 5: results to a table, JSON, CSV, Parquet or NumPy."""
