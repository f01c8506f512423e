"""The native dialect `curtaild/v1`: allocations in watts, schedules, heartbeats; every allocation is answered."""

from curtaild.grid.native.decode import decode
from curtaild.grid.native.dialect import NativeDialect
from curtaild.grid.native.encode import (
    GridAllocation,
    encode_ack,
    encode_allocation,
    encode_breach,
    encode_heartbeat,
    encode_last_will,
    encode_schedule,
    encode_status,
    encode_stopped,
    signed,
)
from curtaild.grid.native.gate import Gate, Rights, gate_of
from curtaild.grid.native.topics import Context, Topics

__all__ = [
    "Context",
    "Gate",
    "GridAllocation",
    "NativeDialect",
    "Rights",
    "Topics",
    "decode",
    "encode_ack",
    "encode_allocation",
    "encode_breach",
    "encode_heartbeat",
    "encode_last_will",
    "encode_schedule",
    "encode_status",
    "encode_stopped",
    "gate_of",
    "signed",
]
