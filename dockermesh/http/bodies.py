"""Bodies that others send, read up to a bound: the length that they tell may be anything."""

from __future__ import annotations

import aiohttp


class TooLarge(ValueError):
    """It goes on behind the bound."""


async def read_bounded(content: aiohttp.StreamReader, most: int) -> bytes:
    """All of it. Raises TooLarge for more than `most` bytes, of which no more are held."""
    body = bytearray()
    async for part in content.iter_any():
        body += part
        if len(body) > most:
            raise TooLarge(f"longer than {most} octets")
    return bytes(body)
