"""Edits of a volume: where they act, what they do, and the file that says so. They know no teacher and no student."""
