"""Callbacks: a signed POST to a URL of the client when a task has ended, retried until it is delivered or given up.

    callback_guard              which URLs and addresses are allowed
    callback_delivery           one attempt, and its signature
    callback_sender             which callbacks are due, and when to try again
    per_host_limiter            how many run at a time

This package knows tasks only by their ids; a `CallbackStore` provides the callbacks that are due and their bodies.
"""

from kafka_http.node.callbacks.callback_delivery import CallbackDelivery, CallbackResult, signing_secrets
from kafka_http.node.callbacks.callback_guard import CallbackGuard
from kafka_http.node.callbacks.callback_sender import CallbackSender, CallbackStore
from kafka_http.tasks import DueCallback

__all__ = [
    "CallbackDelivery",
    "CallbackGuard",
    "CallbackResult",
    "CallbackSender",
    "CallbackStore",
    "DueCallback",
    "signing_secrets",
]
