"""What the views of the v2 dialect ask of the nodes that share a state store."""

from typing import Protocol

from msgspec import Struct


class RemoteNode(Struct, frozen=True):
    """Another node: its URL, and the secret by which it knows that a call comes from a node. `timeout` is the
    instance's, in seconds."""

    url: str
    secret: str
    timeout: float = 0.0


class InstanceLocator(Protocol):
    def locate(self, group: str, name: str, secret: str) -> RemoteNode | None:
        """The node to pass a call for an instance on to; None where it is this one's to answer.

        `secret` is what the request has shown: with the right one it was passed on already, and is not again. Raises
        `Unavailable`.
        """
