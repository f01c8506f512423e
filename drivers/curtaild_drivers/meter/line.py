"""One kept Modbus TCP connection, one question at a time. pymodbus encodes and decodes; the socket is our own, because
pymodbus' client answers a malformed reply with a traceback in the log, notices a lost connection only at its timeout,
and takes a reply with transaction id 0 for the answer to any question (pymodbus 3.16, framer and transaction).
"""

from __future__ import annotations

import asyncio
import struct
from typing import Literal

from pymodbus.constants import ExcCodes
from pymodbus.pdu import ModbusPDU
from pymodbus.pdu.bit_message import ReadCoilsRequest, ReadDiscreteInputsRequest, WriteSingleCoilRequest
from pymodbus.pdu.register_message import (
    ReadHoldingRegistersRequest,
    ReadHoldingRegistersResponse,
    ReadInputRegistersRequest,
    ReadInputRegistersResponse,
)

from curtaild_drivers.contract import BadReply, Unreachable

Function = Literal["holding", "input"]
BitFunction = Literal["coil", "discrete"]

_HEADER = struct.Struct(">HHHB")  # transaction, protocol (0), length of what follows it, unit
_LONGEST = 254  # unit and PDU: Modbus application protocol 1.1b3, section 4.1
_BUFFER_BYTES = 1024

_REQUESTS = {"holding": ReadHoldingRegistersRequest, "input": ReadInputRegistersRequest}
_RESPONSES = {"holding": ReadHoldingRegistersResponse, "input": ReadInputRegistersResponse}
_BIT_REQUESTS = {"coil": ReadCoilsRequest, "discrete": ReadDiscreteInputsRequest}
_NOT_NOW = {
    ExcCodes.ACKNOWLEDGE,
    ExcCodes.DEVICE_BUSY,
    ExcCodes.GATEWAY_PATH_UNAVIABLE,
    ExcCodes.GATEWAY_NO_RESPONSE,
}


class _Exception(Exception):
    """The other end's own Modbus exception: the line stays in step."""

    def __init__(self, code: int) -> None:
        name = ExcCodes(code).name.replace("_", " ").lower() if code in list(ExcCodes) else "unknown"
        super().__init__(f"Modbus exception {code} ({name})")
        self.code = code


class ModbusLine:
    """Asks a Modbus TCP server for registers and bits. Not for concurrent use; the caller cancels at its deadline."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._transaction = 0

    def __str__(self) -> str:
        return f"{self._host}:{self._port}"

    async def connect(self) -> None:
        """Connects unless the kept connection still stands. Raises `Unreachable`."""
        if self._streams is not None:
            reader, writer = self._streams
            if not (reader.at_eof() or reader.exception() is not None or writer.is_closing()):
                return
            self.drop()  # closed by the other end between two questions, as many gateways do
        try:
            self._streams = await asyncio.open_connection(self._host, self._port, limit=_BUFFER_BYTES)
        except OSError as error:
            raise Unreachable(f"no connection to {self}: {error.strerror or error}") from error

    async def registers(self, unit_id: int, function: Function, address: int, count: int) -> list[int]:
        """`count` registers from `address`. Raises `Unreachable` and `BadReply`; after anything but a whole, matching
        answer the connection is dropped, so that no late answer can meet the next question."""
        request, response = _REQUESTS[function](address=address, count=count), _RESPONSES[function]()
        answer = await self._asked(unit_id, request, f"{function} registers {address}+{count}")
        if len(answer) != 2 + 2 * count or answer[1] != 2 * count:
            self.drop()
            raise BadReply(f"{self} answered {len(answer) - 2} bytes of registers, asked were {2 * count}")
        response.decode(answer[1:])
        return list(response.registers)

    async def bit(self, unit_id: int, function: BitFunction, address: int) -> bool:
        """One coil or discrete input. Raises as `registers` does."""
        request = _BIT_REQUESTS[function](address=address, count=1)
        answer = await self._asked(unit_id, request, f"{function} {address}")
        if len(answer) != 3 or answer[1] != 1:
            self.drop()
            raise BadReply(f"{self} answered {len(answer) - 2} bytes of bits, asked was one")
        return bool(answer[2] & 1)

    async def set_coil(self, unit_id: int, address: int, is_on: bool) -> None:
        """Write one coil. Raises as `registers` does; whether it was written is then for a reading to say."""
        request = WriteSingleCoilRequest(address=address, bits=[is_on])
        answer = await self._asked(unit_id, request, f"coil {address}")
        if answer[1:] != request.encode():
            self.drop()
            raise BadReply(f"{self} confirmed another write than that of coil {address}")

    async def _asked(self, unit_id: int, request: ModbusPDU, what: str) -> bytes:
        """The answer's function code and data."""
        if self._streams is None:
            raise Unreachable(f"no connection to {self}")
        try:
            return await self._ask(*self._streams, unit_id, request)
        except _Exception as error:
            text = f"{self} unit {unit_id} refused {what}: {error}"
            raise (Unreachable if error.code in _NOT_NOW else BadReply)(text) from None
        except (OSError, asyncio.IncompleteReadError) as error:
            self.drop()
            raise Unreachable(f"{self} closed the connection without a whole answer") from error
        except BaseException:
            self.drop()
            raise

    async def _ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, unit_id: int, request: ModbusPDU
    ) -> bytes:
        self._transaction = self._transaction % 0xFFFF + 1
        question = bytes([request.function_code]) + request.encode()
        writer.write(_HEADER.pack(self._transaction, 0, 1 + len(question), unit_id) + question)
        await writer.drain()
        transaction, protocol, length, unit = _HEADER.unpack(await reader.readexactly(_HEADER.size))
        if protocol != 0 or not 3 <= length <= _LONGEST:
            raise BadReply(f"{self} does not speak Modbus TCP (protocol {protocol}, length {length})")
        answer = await reader.readexactly(length - 1)
        if (transaction, unit) != (self._transaction, unit_id):
            raise BadReply(
                f"{self} answered transaction {transaction} of unit {unit}, "
                f"asked was {self._transaction} of unit {unit_id}"
            )
        if answer[0] == request.function_code | 0x80:
            raise _Exception(answer[1])
        if answer[0] != request.function_code:
            raise BadReply(f"{self} answered function {answer[0]}, asked was {request.function_code}")
        return answer

    def drop(self) -> None:
        """Ends the connection at once; the next question makes a new one."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None
