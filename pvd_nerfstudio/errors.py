"""The error that is meant for the user."""


class InputError(ValueError):
    """What the user gave cannot be used; the message says what, where and what to do."""
