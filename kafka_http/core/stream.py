"""One stream: it reads from Kafka until it is at the end, and follows there one tail with all others of its topic."""

import time
from collections.abc import Callable

from kafka_http.core.bounds import Bounds, Budget
from kafka_http.core.pieces import Piece, Render, View
from kafka_http.core.reading import Limits, Page, Reader
from kafka_http.core.tails import Batch, FellBehind, Patience, Tail, Tails
from kafka_http.errors import KafkaHttpError
from kafka_http.records import Isolation, Offsets, TopicPartition

_PAGE = Limits(records=2000, size=1 << 20)
_PAUSE_SECONDS = 0.2


class Stream:
    """One client's way through a topic. One thread at a time may call."""

    __slots__ = (
        "_budget",
        "_closed",
        "_ends",
        "_first",
        "_in_step",
        "_is_open",
        "_isolation",
        "_number",
        "_patience",
        "_reader",
        "_tail",
        "_tails",
        "_topic",
        "_until",
        "_view",
        "is_ending",
        "position",
    )

    def __init__(
        self,
        reader: Reader,
        tails: Tails,
        topic: str,
        positions: Offsets,
        *,
        render: Render,
        bounds: Bounds,
        isolation: Isolation,
        closed: Callable[[], None],
    ) -> None:
        """`closed` is called once, by `close`."""
        self.position: Offsets = dict(sorted(positions.items()))
        """Where it is, by partition: behind all that `next` has given."""
        self.is_ending = False
        """Whether there is nothing to wait for: what is left of it is here."""
        self._reader = reader
        self._tails = tails
        self._closed = closed
        self._topic = topic
        self._view = View(frozenset(positions), render)
        self._isolation = isolation
        self._budget = Budget(bounds)
        self._patience = Patience()
        self._tail: Tail | None = None
        self._number = 0
        self._in_step = False
        """Whether it is where the tail's next batch begins; else it is to come there, or had some of it already."""
        self._until: Offsets | None = None
        self._ends = False
        self._first: Piece | None = None
        self._is_open = True

    def begin(self, until: Offsets | None) -> None:
        """Read for the first time, up to these offsets (None: on and on). To be called once, before all else. Raises
        what `Reader.read` does."""
        self._until = until
        self._ends = until is not None
        page = self._page(self.position)
        self._first = self._piece(page)
        self._check_end(self._first)

    @property
    def is_over(self) -> bool:
        """Whether all has been had."""
        return self.is_ending and self._first is None

    @property
    def is_empty(self) -> bool:
        """Whether it is over before it has given anything."""
        return self.is_ending and (self._first is None or not self._first.records)

    @property
    def is_at_tail(self) -> bool:
        """Whether `next(0)` does not block: what comes is rendered already."""
        return self._tail is not None and self._until is None and self._in_step

    @property
    def is_stopping(self) -> bool:
        """Whether the server is about to stop: nothing more comes, though it is not over."""
        return self._reader.is_stopping

    def next(self, wait: float) -> bytes:
        """What comes next, as it is to be sent; nothing after `wait` seconds, and where it has just come to the tail.

        Raises what ends it. Errors that may pass are borne for a while.
        """
        until = time.monotonic() + wait
        while not self.is_over and not self.is_stopping:
            was_at_tail, left = self.is_at_tail, max(0.0, until - time.monotonic())
            piece = self._take(left)
            if piece is not None and piece.records:
                return piece.rendered(self._view.render)
            if time.monotonic() >= until or (self.is_at_tail and not was_at_tail):
                break
        return b""

    def close(self) -> None:
        """Make room for another. Once is enough; it must be called."""
        if self._is_open:
            self._is_open = False
            self._leave_tail()
            self._closed()

    def _take(self, wait: float) -> Piece | None:
        piece: Piece | None
        if self._first is not None:
            piece, self._first = self._first, None
        elif self._tail is not None and self._until is None:
            piece = self._from_tail(self._tail, wait)
        else:
            piece = self._from_log(wait)
        if piece is not None:
            self.position = piece.next
        return piece

    # from Kafka

    def _from_log(self, wait: float) -> Piece | None:
        until = self._until or {}
        wanted = {each: at for each, at in self.position.items() if each not in until or at < until[each]}
        try:
            page = self._page(wanted)
        except KafkaHttpError as error:
            if not self._patience.has_for(error):
                raise
            self._reader.pause(min(wait, _PAUSE_SECONDS))
            return None
        self._patience.reset()
        piece = self._piece(page)
        self._check_end(piece)
        if not page.records and self._until is None:
            self.position = piece.next
            self._join()
        elif piece.next == self.position and not self.is_ending:
            self._reader.pause(min(wait, _PAUSE_SECONDS))  # a log without what it had
        return piece

    def _page(self, positions: Offsets) -> Page:
        places = {TopicPartition(self._topic, each): at for each, at in positions.items()}
        limits = self._budget.limits(_PAGE)
        return self._reader.read(places, limits, isolation=self._isolation)

    def _piece(self, page: Page) -> Piece:
        """What a page brings before `until`, as far as the budget goes."""
        following = {**self.position, **{place.partition: at for place, at in page.next.items()}}
        records = page.records
        if self._until is not None:
            until = self._until
            records = [each for each in records if each.offset < until[each.partition]]
            following = {each: max(self.position[each], min(at, until[each])) for each, at in following.items()}
        return self._within_budget(Piece(self.position, records, following))

    def _check_end(self, piece: Piece) -> None:
        """See whether a piece has come to what this reads up to: its end, or the place where the tail goes on."""
        if self._until is not None and all(piece.next[each] >= at for each, at in self._until.items()):
            self.is_ending |= self._ends
            self._in_step = piece.next == self._until
            self._until = None

    # from the tail

    def _join(self) -> None:
        self._tail, self._number, there = self._tails.join(self._topic, self._isolation, self._view, self.position)
        self._in_step = there == self.position
        if any(at > self.position[each] for each, at in there.items()):
            self._until = there

    def _from_tail(self, tail: Tail, wait: float) -> Piece | None:
        try:
            batch = tail.batch(self._number, wait)
        except FellBehind:
            self._leave_tail()
            return None
        if batch is None:
            return None
        self._number += 1
        return self._within_budget(self._piece_of(batch))

    def _piece_of(self, batch: Batch) -> Piece:
        """What a batch has for this stream: what all have, but where it had some of it from Kafka before."""
        shared, position = batch.piece(self._view.partitions), self.position
        if shared.start == position:
            return shared
        records = [each for each in shared.records if each.offset >= position[each.partition]]
        following = {each: max(at, position[each]) for each, at in shared.next.items()}
        self._in_step = following == shared.next
        return Piece(position, records, following)

    def _leave_tail(self) -> None:
        if self._tail is not None:
            self._tail.leave(self._view)
            self._tail = None

    def _within_budget(self, piece: Piece) -> Piece:
        count = self._budget.spend(piece.records)
        self.is_ending |= self._budget.is_spent
        if count == len(piece.records):
            return piece
        records = piece.records[:count]
        following = dict(piece.start)
        following.update((each.partition, each.offset + 1) for each in records)
        return Piece(piece.start, records, following)
