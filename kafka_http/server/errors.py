"""What goes wrong when a server starts."""


class CannotServe(Exception):
    """The server cannot start; the message is a sentence for the user."""
