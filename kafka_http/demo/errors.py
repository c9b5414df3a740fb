"""What keeps the embedded Kafka from running."""


class DemoError(Exception):
    """One sentence for the person at the terminal: what is wrong, and what would be right."""
