"""Consumer instances of the REST Proxy v2 API, and the committed offsets of consumers of `/messages`."""
