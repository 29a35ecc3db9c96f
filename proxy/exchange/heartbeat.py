"""Heartbeats: a comment in each stream that was silent for long, so that no proxy on the way takes it for dead.

Silence is found by looking at all streams a few times in its limit: what a stream has sent is counted anyway, so the bytes that pass
pay nothing for it.
"""

import asyncio

from proxy.exchange.stream import Stream
from proxy.live.settings import Live

_LOOKS = 4
"""Looks in one limit; a silence is filled at most a quarter of the limit late."""
_LOOK_SECONDS_WHEN_OFF = 1.0
"""A reload may turn heartbeats on."""


class Heartbeats:
    """Watches the streams that have begun. One timer for all of them, which runs only while there are any."""

    def __init__(self, loop: asyncio.AbstractEventLoop, live: Live) -> None:
        self._loop = loop
        self._live = live
        self._sent: dict[Stream, tuple[int, float]] = {}
        """What each stream had sent when it was last seen to send something, and that time."""
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, stream: Stream) -> None:
        self._sent[stream] = 0, self._loop.time()
        if self._timer is None:
            self._arm()

    def forget(self, stream: Stream) -> None:
        self._sent.pop(stream, None)

    def _arm(self) -> None:
        seconds = self._live.now.config.server.heartbeat_seconds
        self._timer = self._loop.call_later(seconds / _LOOKS if seconds else _LOOK_SECONDS_WHEN_OFF, self._look)

    def _look(self) -> None:
        self._timer = None
        if not self._sent:
            return
        seconds, now = self._live.now.config.server.heartbeat_seconds, self._loop.time()
        for stream, (sent_bytes, since) in tuple(self._sent.items()):
            if stream.sent_bytes != sent_bytes or not stream.begun:
                self._sent[stream] = stream.sent_bytes, now
            elif seconds and now - since >= seconds:
                stream.keep_alive()
                self._sent[stream] = stream.sent_bytes, now
        self._arm()
