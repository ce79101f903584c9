"""What pods answer over HTTP, by their addresses. Whatever they are, they may answer anything, or never."""

import asyncio
from collections.abc import Iterable
from typing import NamedTuple

import aiohttp

PORT = 8080
"""Where pods serve probes and metrics."""
ANSWER_S = 3.0

_AT_A_TIME = 16


class Answer(NamedTuple):
    """A status of HTTP, and what came with it."""

    status: int
    text: str


async def ask(addresses: Iterable[str | None], path: str, *, most_bytes: int, port: int = PORT) -> list[Answer | None]:
    """What each address answers to a GET; None where there is no address, no answer in time, or more than so many bytes."""
    slots = asyncio.Semaphore(_AT_A_TIME)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_S)) as session:

        async def one(address: str | None) -> Answer | None:
            if not address:
                return None
            host = f"[{address}]" if ":" in address else address
            try:
                async with slots, session.get(f"http://{host}:{port}{path}", allow_redirects=False) as answer:
                    read = bytearray()
                    async for chunk in answer.content.iter_chunked(65_536):
                        read += chunk
                        if len(read) > most_bytes:
                            return None
                    return Answer(answer.status, read.decode(errors="replace"))
            except (TimeoutError, aiohttp.ClientError, OSError, ValueError):
                return None

        return await asyncio.gather(*map(one, addresses))
