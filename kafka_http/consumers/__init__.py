"""Consumer instances of the REST Proxy v2 API, and the offsets of the consumers of `/messages`."""
