"""What a conversion came to, to look at: measured, drawn, and put on a page."""
