"""Where rays come from."""
