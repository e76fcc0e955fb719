"""A sealed channel between two silos of the pinned roster, and how a coordinator relays it; without I/O.

``Channel`` is one end: a handshake that authenticates both, then frames in sealed records. ``relay`` is what
travels between a silo and the coordinator, which forwards records that it cannot open. It knows no protocol
whose frames it carries.
"""
