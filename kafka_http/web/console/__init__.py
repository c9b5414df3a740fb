"""The console: a page that shows topics, messages and consumers with calls of the public API."""
