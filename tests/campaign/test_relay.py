"""The relay hands on everything, also of a server that closes as soon as it has answered."""

import asyncio
import time

from multispin.bench.relay import Relay

ANSWER = bytes(range(256)) * 4000  # a megabyte


def test_an_answer_that_ends_with_its_connection_arrives_whole_and_late() -> None:
    asked = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.read())  # until the other side has said all
        writer.write(ANSWER)
        await writer.drain()
        writer.close()

    async def exchange() -> tuple[bytes, float]:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with Relay("127.0.0.1", server.sockets[0].getsockname()[1], up_s=0.02, down_s=0.03) as relay:
            begun_s = time.monotonic()
            reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
            writer.write(b"question")
            writer.write_eof()
            got = await reader.read()
            took_s = time.monotonic() - begun_s
            writer.close()
        server.close()
        return got, took_s

    got, took_s = asyncio.run(asyncio.wait_for(exchange(), 30.0))
    assert asked == [b"question"]
    assert got == ANSWER
    assert took_s >= 0.05


def test_a_cut_ends_what_is_under_way() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async def cut() -> bytes:
        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        async with Relay("127.0.0.1", server.sockets[0].getsockname()[1]) as relay:
            reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
            writer.write(b"x")
            await asyncio.sleep(0.05)
            relay.cut()
            try:
                return await reader.read()
            except ConnectionResetError:
                return b""
            finally:
                writer.close()
                server.close()

    assert asyncio.run(asyncio.wait_for(cut(), 30.0)) == b""
