"""Blocking calls beside the event loop, in threads that no exit waits for."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar, cast

ResultT = TypeVar("ResultT")


async def in_daemon_thread(call: Callable[[], ResultT]) -> ResultT:
    """Like `asyncio.to_thread`, but a call that never returns (a full pipe, a dead broker) keeps nothing from ending."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[ResultT] = loop.create_future()

    def settle(result: ResultT | None, error: BaseException | None) -> None:
        if future.done():  # cancelled meanwhile
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(cast("ResultT", result))

    def run() -> None:
        result, error = None, None
        try:
            result = call()
        except BaseException as raised:  # noqa: BLE001 - it is raised again where the result is awaited
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop may be gone by now
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, daemon=True).start()
    return await future
