"""How a worker's servers are reached."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Net:
    """The network of the machine that a worker runs on.

    Attributes:
        address: that its servers bind, and at which they are reached.
        interface: that has this address; ``None``: the engine's own choice.
        others: addresses of the other machines that workers of this deployment may run on; none of them is behind a proxy.
    """

    address: str = "127.0.0.1"
    interface: str | None = "lo"
    others: tuple[str, ...] = ()

    @property
    def no_proxy(self) -> str:
        """Hosts that are spoken to directly, as ``NO_PROXY`` takes them."""
        return ",".join(dict.fromkeys(("127.0.0.1", "localhost", self.address, *self.others)))


LOOPBACK: Final = Net()
