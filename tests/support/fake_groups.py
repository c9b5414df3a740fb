"""Consumer groups and their members in memory, for `FakeBroker`."""

import threading
import time
from collections.abc import Callable, Collection, Mapping

from kafka_http.errors import BrokerUnavailable, NotAuthorized, RetriableBrokerError
from kafka_http.records import RELEASE_SECONDS, Assignment, Commits, MembershipListener, TopicPartition


class FakeMembership:
    def __init__(self, groups: "FakeGroups", group: "FakeGroup", member_id: str, topics: Collection[str]) -> None:
        self.groups = groups
        self.group = group
        self.member_id = member_id
        self.topics = frozenset(topics)
        self.assignment: Assignment | None = None
        self.listener: MembershipListener | None = None
        self.is_here = True

    def subscribe(self, topics: Collection[str]) -> None:
        if self.topics != frozenset(topics):
            self.topics = frozenset(topics)
            self.group.change()

    def commit(self, offsets: Commits, timeout: float) -> None:
        self.groups.check_up()
        if self.assignment is None or self.group.members.get(self.member_id) is not self or not self.is_here:
            raise RetriableBrokerError("The group is sharing out its partitions anew.")
        self.groups.commit(self.group.name, offsets)

    def leave(self) -> None:
        self.is_here = False
        if self.group.members.get(self.member_id) is self:
            del self.group.members[self.member_id]
            self.group.change()

    def close(self) -> None:
        self.is_here = False


class FakeGroup:
    """A group that assigns partitions by range, in a new thread for each rebalance."""

    def __init__(self, groups: "FakeGroups", name: str) -> None:
        self.groups = groups
        self.name = name
        self.members: dict[str, FakeMembership] = {}
        self.generation = 0
        self._changes = 0
        self._rebalanced = 0
        self._turn = threading.Lock()

    def join(self, member: FakeMembership) -> None:
        before = self.members.get(member.member_id)
        self.members[member.member_id] = member
        if before is None:
            self.change()
            return
        if before.is_here and before.listener is not None:
            threading.Thread(target=before.listener.fenced, daemon=True).start()
        if before.topics == member.topics and before.assignment is not None and self._rebalanced == self._changes:
            member.assignment = before.assignment
            assert member.listener is not None
            threading.Thread(target=member.listener.assigned, args=(member.assignment,), daemon=True).start()
        else:
            self.change()

    def change(self) -> None:
        self._changes += 1
        threading.Thread(target=self._rebalance, daemon=True).start()

    def _rebalance(self) -> None:
        with self._turn:
            while self._rebalanced != self._changes:
                changes = self._changes
                if self._revoke():
                    self._assign()
                    self._rebalanced = changes

    def _revoke(self) -> bool:
        for each in [each for each in self.members.values() if not each.is_here]:
            del self.members[each.member_id]  # the session of the member has timed out
        if (refusal := self.groups.refusal(self.members.values())) is not None:
            for each in list(self.members.values()):
                each.listener.failed(refusal)
            time.sleep(0.02)
            return False
        waiting = []
        for each in list(self.members.values()):
            if each.assignment is not None and each.assignment.partitions:
                waiting.append(self._revoke_member(each))
        until = time.monotonic() + RELEASE_SECONDS
        for done, offsets in waiting:
            if done.wait(max(0, until - time.monotonic())):
                self.groups.commit(self.name, offsets)
        return True

    def _revoke_member(self, member: FakeMembership) -> tuple[threading.Event, dict[TopicPartition, object]]:
        done, offsets = threading.Event(), {}

        def release(given: Commits) -> None:
            offsets.update(given)
            done.set()

        member.assignment = None
        member.listener.revoking(release)
        return done, offsets

    def _assign(self) -> None:
        self.generation += 1
        members = sorted(self.members.values(), key=lambda each: each.member_id)
        given: Mapping[str, set[TopicPartition]] = {each.member_id: set() for each in members}
        for topic in {topic for each in members for topic in each.topics}:
            of_topic = [each for each in members if topic in each.topics]
            count = self.groups.count(topic)
            for partition in range(count):
                given[of_topic[partition * len(of_topic) // count].member_id].add(TopicPartition(topic, partition))
        for each in members:
            each.assignment = Assignment(self.generation, frozenset(given[each.member_id]))
            each.listener.assigned(each.assignment)


class FakeGroups:
    """The groups of a fake cluster."""

    def __init__(
        self, is_up: Callable[[], bool], refused: set[str], count: Callable[[str], int], commit: Callable[..., None]
    ) -> None:
        self._is_up = is_up
        self._refused = refused
        self.count = count
        self.commit = commit
        self._groups: dict[str, FakeGroup] = {}

    def join(self, group: str, member_id: str, topics: Collection[str], listener: MembershipListener) -> FakeMembership:
        found = self._groups.setdefault(group, FakeGroup(self, group))
        member = FakeMembership(self, found, member_id, topics)
        member.listener = listener
        found.join(member)
        return member

    def names(self) -> list[str]:
        """Return the groups that have had members."""
        return list(self._groups)

    def member_ids(self, group: str) -> list[str]:
        return list(self._groups[group].members) if group in self._groups else []

    def check_up(self) -> None:
        if not self._is_up():
            raise BrokerUnavailable("No Kafka broker answers: connection refused (KafkaConnection).")

    def refusal(self, members: Collection[FakeMembership]) -> Exception | None:
        if not self._is_up():
            return BrokerUnavailable("No Kafka broker answers: connection refused (KafkaConnection).")
        if any(each.topics & self._refused for each in members):
            return NotAuthorized("Kafka's ACLs do not allow this (TopicAuthorizationFailed).")
        return None
