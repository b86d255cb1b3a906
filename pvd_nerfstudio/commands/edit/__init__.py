"""`pvd-edit`: edits of a trained run, seen before they are made."""
