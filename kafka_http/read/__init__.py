"""Reading: start positions, pages, streams, and the shared follower at the end of a topic."""
