"""What comes from outside and is not believed: numbers, text, code."""
