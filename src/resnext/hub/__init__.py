"""Weight files from elsewhere: fetched once, checked always."""
