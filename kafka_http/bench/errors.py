"""What keeps a bench from running."""


class BenchError(Exception):
    """One sentence for the person at the terminal: what is wrong, and what would be right."""
