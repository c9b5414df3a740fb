"""Keys of the WSGI environ that our server sets and our views read. Other servers set none of them."""

HEADER_PAIRS = "kafka_http.header_pairs"
"""The request's headers as a list of (name, value), in upper case. WSGI joins repeated headers into one value."""

RECEIVED_BYTES = "kafka_http.received_bytes"
"""Size of a body that the server has received and that already counts toward `max_in_flight`."""

BODY_ERROR = "kafka_http.body_error"
"""The exception to raise instead of reading the body, which the server did not receive in full."""

REQUEST_STARTED = "kafka_http.request_started"
"""When the first byte of the request arrived, on the monotonic clock."""

DETACH_STREAM = "kafka_http.detach_stream"
"""A function that takes a `kafka_http.server.stream_sender.StreamSource` after the first part of the response is
written. It does not return: the server sends the rest without a thread."""

CLIENT_CERTIFICATE = "kafka_http.client_certificate"
"""The verified certificate of the client, in the form of `ssl.SSLSocket.getpeercert()`. Absent without one."""

ADMISSION = "kafka_http.admission"
"""What `RequestPolicy.admit` has returned for this request before its body was received."""

PRINCIPAL = "kafka_http.principal"
"""The name of the principal, for the access log. The views set it; absent without a principal."""
