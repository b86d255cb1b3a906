"""One file a representation, all on the base in `base.py`."""
