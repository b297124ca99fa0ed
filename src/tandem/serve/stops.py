"""Stop strings over streamed text: cut before the first one, never let a part of one out.

Text arrives in pieces that split anywhere. The matcher gives back what is safe to show at once and keeps the tail that may
still become a stop string, so the outcome does not depend on where the pieces were cut.
"""

from collections.abc import Sequence


class StopMatcher:
    """Streams text up to the first stop string.

    Of several stop strings the one that is complete first wins; of two complete at the same character, the longer.

    >>> matcher = StopMatcher(["\\n\\nQ:"])
    >>> matcher.push("42.\\n"), matcher.push("\\nQ"), matcher.push(": Why")
    ('42.', '', '')
    >>> matcher.stopped
    True

    Raises:
        ValueError: an empty stop string.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        if isinstance(stop, str):
            stop = (stop,)
        if "" in stop:
            raise ValueError("stop='' would stop at once; give the text to stop at, or leave stop out")
        self._stop = tuple(stop)
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """Takes more text and returns what can be shown now; nothing once a stop string was met."""
        if self.stopped:
            return ""
        self._held += text
        ends = [(at + len(stop), at) for stop in self._stop if (at := self._held.find(stop)) >= 0]
        if ends:
            self.stopped = True
            shown, self._held = self._held[: min(ends)[1]], ""
            return shown
        keep = self._open_tail()
        shown, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return shown

    def finish(self) -> str:
        """The text ended: returns the kept tail, which turned out to be no stop string."""
        tail, self._held = self._held, ""
        return tail

    def _open_tail(self) -> int:
        longest = max((len(stop) - 1 for stop in self._stop), default=0)
        for size in range(min(longest, len(self._held)), 0, -1):
            tail = self._held[-size:]
            if any(stop.startswith(tail) for stop in self._stop):
                return size
        return 0
