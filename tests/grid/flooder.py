"""Floods a topic from a process of its own: python flooder.py PORT TOPIC COUNT < payloads (one line each, in turn).

Speaks just enough MQTT 3.1.1 to send retained QoS 1 messages as fast as the broker takes them, and reads its answers
only so that the broker does not stall. The last line goes out once more at the very end.
"""

from __future__ import annotations

import socket
import sys
import threading


def varint(number: int) -> bytes:
    encoded = bytearray()
    while True:
        number, low = divmod(number, 128)
        encoded.append(low | (128 if number else 0))
        if not number:
            return bytes(encoded)


def text(value: str) -> bytes:
    return len(value).to_bytes(2, "big") + value.encode()


def publish(topic: str, payload: bytes, packet_id: int) -> bytes:
    body = text(topic) + packet_id.to_bytes(2, "big") + payload
    return b"\x33" + varint(len(body)) + body  # QoS 1, retained


def drain(line: socket.socket, acknowledged: threading.Semaphore) -> None:
    while data := line.recv(65_536):
        for _ in range(len(data) // 4):  # a PUBACK is four bytes
            acknowledged.release()


def main() -> None:
    port, topic, count = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    payloads = sys.stdin.buffer.read().splitlines()
    with socket.create_connection(("127.0.0.1", port)) as line:
        body = text("MQTT") + bytes([4, 2, 0, 60]) + text("flooder")
        line.sendall(b"\x10" + varint(len(body)) + body)
        line.recv(4)
        acknowledged = threading.Semaphore(0)
        threading.Thread(target=drain, args=(line, acknowledged), daemon=True).start()
        for first in range(0, count, 100):
            batch = [payloads[number % len(payloads)] for number in range(first, first + 100)]
            line.sendall(b"".join(publish(topic, payload, 1 + at % 60_000) for at, payload in enumerate(batch, first)))
        line.sendall(publish(topic, payloads[-1], 65_535))
        for _ in range(count):  # the broker has taken them all
            if not acknowledged.acquire(timeout=30):
                sys.exit("the broker does not acknowledge")
        line.sendall(b"\xe0\x00")


if __name__ == "__main__":
    main()
