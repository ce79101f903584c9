"""A stage that reads a topic, for tests of the scaling decision: arithmetic on offsets, seen as an Observation."""

from forebay.planning.scaling import GroupState, Observation, PartitionOffsets


class Stage:
    """Partitions are dealt to the replicas in turn; every replica does what it can of its own."""

    def __init__(self, *, partitions, replicas):
        self.now = 0.0
        self.replicas = self.ready = replicas
        self.ends = [0.0] * partitions
        self.done = [0.0] * partitions
        self.topic_id = "first"
        self._hanging = set()

    def hang(self, partition):
        """Nobody gets on with this partition any more."""
        self._hanging.add(partition)

    def scale(self, replicas, *, ready=None):
        self.replicas, self.ready = replicas, replicas if ready is None else ready

    def recreate(self):
        """Delete the topic and make it again; the group starts anew."""
        self.topic_id = "second"
        self.ends = [0.0] * len(self.ends)
        self.done = [0.0] * len(self.done)

    def look(self, *, after_s, arrive, per_replica, group=None, lost=(), **more):
        """Let time pass with these records per second, then look.

        `per_replica`: what each can do, or one of all.
        """
        able = per_replica if isinstance(per_replica, list) else [per_replica] * self.ready
        self.now += after_s
        for partition in range(len(self.ends)):
            self.ends[partition] += arrive * after_s / len(self.ends)
        for replica in range(self.ready):
            held = [
                each for each in range(len(self.ends)) if each % self.ready == replica and each not in self._hanging
            ]
            waiting = sum(self.ends[each] - self.done[each] for each in held)
            share = min(1.0, able[replica] * after_s / waiting) if waiting else 0.0
            for each in held:
                self.done[each] += share * (self.ends[each] - self.done[each])
        return Observation(
            **{
                "time": self.now,
                "replicas": self.replicas,
                "ready": self.ready,
                "group": group or (GroupState.STABLE if self.ready else GroupState.EMPTY),
                "partitions": tuple(
                    PartitionOffsets(
                        end=None if number in lost else int(end),
                        committed=int(done),
                        owner=f"replica-{number % self.ready}" if self.ready else None,
                    )
                    for number, (end, done) in enumerate(zip(self.ends, self.done, strict=True))
                ),
                "topic_id": self.topic_id,
            }
            | more
        )
