"""``python -m tests.fleet.spoken_worker …``: a worker that says each commit it asks for, and each answer."""

import sys

from kvstream.__main__ import main
from kvstream.fleet.worker import Worker


def say(*words):
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def spoken(name, before):
    method = getattr(Worker, name)

    def speak(self, *args):
        before(*args)
        return method(self, *args)

    setattr(Worker, name, speak)


spoken("_commit", lambda place, *_: say("asked", place.partition, place.offset))
spoken(
    "_answered",
    lambda number, owned, error: say("refused" if error else "accepted", number, owned.committing),
)
spoken("_lost", lambda consumer, partitions: say("lost", *(each.partition for each in partitions)))
sys.argv[0] = "kvstream"
main()
