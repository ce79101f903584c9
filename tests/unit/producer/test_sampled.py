from forebay.messages.headers import SAMPLE_EVERY
from forebay.runtime.sourcing import Room, sampled


def test_the_first_event_and_every_thousandth_are_sampled_however_batches_fall():
    chosen = []
    for first in range(0, 10 * SAMPLE_EVERY, 137):
        chosen += [first + index for index in sampled(first, 137)]

    assert chosen == list(range(0, chosen[-1] + 1, SAMPLE_EVERY))
    assert list(sampled(0, 0)) == []


def test_a_transaction_takes_half_of_the_client_s_queue():
    properties = {"queue.buffering.max.messages": "1000", "queue.buffering.max.kbytes": 64}

    assert Room.within(properties) == Room(records=500, size_bytes=32 * 1024)
