"""A conversation under way: what was said so far, and what is to be asked next. A request of its own is one of a single turn."""

from __future__ import annotations

from labkit.load.client import Reply
from labkit.load.conversations import Turn
from labkit.load.draws import LoadPhase
from labkit.load.target import Requests


class Talk:
    """Arrival ``number`` of a phase.

    Args:
        requests: builds its requests; another one may take over between two turns.
        phase, number: of the schedule.

    Attributes:
        turn: number of the turn that is to be asked, or was asked last.
        turns: of the conversation; one where there is none.
        conversation: its number; ``None`` where there is none.
    """

    __slots__ = ("_history", "_question", "conversation", "number", "phase", "turn", "turns")

    def __init__(self, requests: Requests, phase: LoadPhase, number: int) -> None:
        self.phase, self.number = phase, number
        self.turn = 0
        self.turns = requests.schedule.turns(phase, number)
        self.conversation = number if requests.schedule.conversations is not None else None
        self._history: list[bytes] = []
        self._question = b""

    @property
    def now(self) -> Turn:
        """The turn that is to be asked, or was asked last."""
        return self.turns[self.turn]

    @property
    def left(self) -> int:
        """Turns after it."""
        return len(self.turns) - self.turn - 1

    def body(self, requests: Requests) -> bytes:
        """The JSON that asks the turn: the history, and what is new."""
        self._question = requests.question(self.phase, self.number, self.turn)
        return requests.of_parts([*self._history, self._question], self.now.osl)

    def go_on(self, requests: Requests, reply: Reply) -> bool:
        """Take question and answer into the history and turn to the next; whether there is one and the answer can be told."""
        if not self.left:
            return False
        if requests.served:
            answer = requests.heard(reply.answer, reply.output_tokens) if reply.answer is not None else None
        else:
            answer = requests.answer(self.phase, self.number, self.turn, self.now.osl)
        if answer is None:
            return False
        self._history += self._question, answer
        self.turn += 1
        return True
