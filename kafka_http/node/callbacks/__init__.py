"""Telling whoever asked for it what became of a task: a signed POST to a URL of the client's, tried again until taken.

    guard, target, addresses    where it may go, by the URL's text and by the addresses that its host has
    connection, delivery        one attempt
    signature                   what a receiver knows us by
    due, turns, sender          which are due, whose turn it is, when to try again

Knows tasks by their ids alone: what is due, and as what body, a `CallbackStore` says.
"""

from kafka_http.node.callbacks.callback_delivery import CallbackDelivery, CallbackResult
from kafka_http.node.callbacks.callback_guard import CallbackGuard
from kafka_http.node.callbacks.callback_sender import CallbackSender
from kafka_http.node.callbacks.callback_signature import signing_secrets
from kafka_http.node.callbacks.callback_store import CallbackStore
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
