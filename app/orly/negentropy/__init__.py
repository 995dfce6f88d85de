"""Negentropy Protocol V1: two sides find out which items only one of them has, at a cost that follows the difference.

Pure: no sockets, no clock. Both sides make an `ItemSet`; the one that asks makes an `Initiator` and sends what
`initiate` gives, the other answers with a `Responder`, and so on until a step says that nothing is left:

    step = initiator.reconcile(responder.answer(initiator.initiate()))
    while step.next is not None:
        step = initiator.reconcile(responder.answer(step.next))

Each step names ids only one side has. NIP-77 carries these messages as hex.
"""

from orly.negentropy.encoding import INFINITY_S
from orly.negentropy.errors import NegentropyError
from orly.negentropy.itemset import ItemSet
from orly.negentropy.pages import ITEM_BYTES
from orly.negentropy.ranges import PROTOCOL_VERSION, is_complete
from orly.negentropy.roles import Initiator, Responder, Step

__all__ = [
    "INFINITY_S",
    "ITEM_BYTES",
    "PROTOCOL_VERSION",
    "Initiator",
    "ItemSet",
    "NegentropyError",
    "Responder",
    "Step",
    "is_complete",
]
