"""The node: its daemon, the state store, callbacks, and the other nodes."""
