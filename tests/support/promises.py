"""How long a stage may take to be at work again after a fault: the times that it promises, in seconds."""

TRANSACTION_S = 15
"""A transaction that nobody ends is aborted by the broker."""
UNBLOCKED_S = 5
"""A successor under the same transactional.id ends what its predecessor left open, counted from its start."""
TAKEN_OVER_S = 20
"""The partitions of a dead member are processed by another one, state restored."""
HEALED_S = 45
"""After the brokers are back: reconnecting takes up to 5 s, then a call that was lost in the client and the transaction that it
belonged to time out one after the other."""
FAILED_OVER_S = 2 * HEALED_S
"""After one of several brokers has died. Kafka takes 9 s to notice, and then its successors read what it coordinated; who asks in
the meantime waits for a call to time out, and then perhaps for another."""
