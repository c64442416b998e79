"""What simulated workers pretend, and whether this machine keeps up: before a load is sent, and after it was measured.

Mockers sleep for as long as a profile says, and real processes move every token: where those need more than the machine has,
steps come late and times are wrong. Before: the tokens per second that the load should make, by the profile, are held against
what the machine carries. After: the mean ITL that was measured against the profile's under the load that was served.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from labkit.errors import NotSimulated, SpecError
from labkit.lab.engines import SIMULATED
from labkit.measure.metrics import summarise
from labkit.measure.records import Window
from labkit.measure.simulated import MOST_OFF, MOST_OFF_AGGREGATED
from labkit.serve.engines.base import EngineOptions
from labkit.serve.hardware import Node, simulate
from labkit.serve.hosts import LocalHost
from labkit.serve.remote import RemoteHosts
from labkit.serve.timing import TimingProfile, load_timing, save_timing
from labkit.spec import Role, Topology, Workload
from labkit.spec.lengths import Lengths
from labkit.store.run import Run

#: Of a run's manifest.
KEY: Final = "simulated"
FOLDER: Final = "timing"
#: Tokens per second that a core carries through mocker, frontend and load client with the mean ITL right; from half of that on
#: the longest gaps are this machine's (``docs/method.md``).
TOKENS_PER_CORE_S: Final = 6_000.0
#: Of what the machine carries: the lab's own processes need some too, and beyond it the longest times are this machine's.
ROOM: Final = 0.5
#: The slowest motion in which an experiment still ends within an afternoon.
MOST_STRETCH: Final = 8.0
_ROUNDS: Final = 30
_LEAST_REQUESTS: Final = 30  # fewer are not in a steady state


@dataclass(frozen=True, slots=True)
class Expected:
    """A steady state by the profile alone, without queues.

    Attributes:
        tok_s: output tokens of the whole deployment.
        kv_tokens: active KV of a worker that decodes.
        itl_s: its step, without prefills between.
    """

    tok_s: float
    kv_tokens: float
    itl_s: float


@dataclass(frozen=True, slots=True)
class Simulation:
    """The profiles that the workers of a lab follow, and the machine that they run on.

    Attributes:
        profiles: TP degree → profile.
        cores: of this machine that the lab may use.
    """

    profiles: Mapping[int, TimingProfile]
    cores: float

    @classmethod
    def of(cls, engine: str, options: EngineOptions, node: Node) -> Self | None:
        """The simulation that an engine makes; ``None`` for one whose workers compute.

        Raises:
            SpecError: timing profiles for real workers, or none for simulated ones.
        """
        if engine != SIMULATED:
            if options.timing is not None:
                raise SpecError(f"engine {engine!r} follows no timing profile: its workers are real", remedy="use engine mocker")
            return None
        if options.timing is None:
            raise SpecError(
                "engine 'mocker' needs timing profiles: its workers compute nothing, and take the time that one says",
                remedy="give EngineOptions(timing=save_timing([labkit.whatif.timing_from_estimates(model, gpu)], folder)); in a "
                "notebook, timing = a GPU's name, measured runs, or a folder of saved profiles",
            )
        return cls.on(node, load_timing(options.timing))

    @classmethod
    def on(cls, node: Node, profiles: Mapping[int, TimingProfile]) -> Self:
        """Of these profiles on a machine, with the cores that its control group grants."""
        limit = node.cpu_limit if node.cpu_limit is not None else len(node.cores)
        return cls(profiles, min(float(len(node.cores)), limit))

    @property
    def models(self) -> tuple[str, ...]:
        """Whose times the profiles are."""
        return tuple(dict.fromkeys(profile.model for profile in self.profiles.values()))

    @property
    def carries_tok_s(self) -> float:
        """Tokens per second that this machine can move in time."""
        return self.cores * TOKENS_PER_CORE_S

    def node(self, here: Node) -> Node:
        """This machine with the GPUs that are pretended."""
        any_of_them = next(iter(self.profiles.values()))
        return simulate(here, any_of_them.gpu, any_of_them.gpu_bytes)

    def kept(self, run: Path) -> dict[str, Any]:
        """Copy the profiles into a run's folder; what its manifest says of them."""
        save_timing(self.profiles.values(), run / FOLDER)
        about = [{**profile.about(), "sha256": profile.digest} for profile in self.profiles.values()]
        return {KEY: {"gpu": about[0]["gpu"], "profiles": about, "cores": self.cores, "windows": {}}}

    def expected(self, workload: Workload, topology: Topology) -> Expected | None:
        """What the profile gives for a load; ``None`` where only a file knows its lengths or rate."""
        isl, osl = (Lengths.parse(length or 0).typical for length in (workload.isl, workload.osl))
        if isl is None or osl is None or (workload.rate is None and workload.concurrency is None):
            return None
        count, decoding = self._decoding(topology)
        context, alone = isl + osl / 2, topology.is_disaggregated
        prefill_s = self._prefilling(topology).prefill(isl)
        most_hz = topology.count(Role.PREFILL) / prefill_s if alone else float("inf")
        held, hz = (workload.concurrency or 1.0) / count, 0.0
        for _ in range(_ROUNDS):
            itl_s = decoding.itl(held * context, context)
            if workload.concurrency is not None:
                in_flight = workload.concurrency / count
                hz = min(count * in_flight / (osl * itl_s + prefill_s * (1.0 if alone else in_flight)), most_hz)
            else:
                busiest = 1 / (prefill_s + osl * itl_s / max(held, 1.0))
                hz = min(workload.rate or 0.0, most_hz if alone else count * busiest)
            held = (held + hz / count * osl * itl_s / (1.0 if alone else max(0.05, 1 - hz / count * prefill_s))) / 2
        return Expected(hz * osl, held * context, decoding.itl(held * context, context))

    def check(self, workload: Workload, topology: Topology) -> list[str]:
        """Whether a load can be simulated in time and within what the profiles hold for; sentences for who reads the numbers.

        Raises:
            NotSimulated: the machine cannot keep up, or the load is beyond the profiles' range.
        """
        found = self.expected(workload, topology)
        if found is None:
            return ["simulated: whether this machine keeps up is not known before: a file holds the lengths or the rate"]
        lengths = [Lengths.parse(length or 0) for length in (workload.isl, workload.osl)]
        isl, osl = (length.typical or 0.0 for length in lengths)
        _, decoding = self._decoding(topology)
        beyond = [
            *self._prefilling(topology).beyond(prompt_tokens=lengths[0].longest or isl, active_kv_tokens=0, context_tokens=0),
            *decoding.beyond(prompt_tokens=0, active_kv_tokens=found.kv_tokens, context_tokens=isl + osl / 2),
        ]
        said = []
        if beyond:
            words = f"outside of the range in which the timing profile holds: {'; '.join(beyond)}"
            if not decoding.extrapolate:
                raise NotSimulated(words, remedy="ask for less, or make the profile with extrapolate=True")
            said.append(f"simulated: {words}; asked for all the same, and its error is unknown")
        share = found.tok_s / self.carries_tok_s
        words = f"{found.tok_s:,.0f} tokens/s expected, and {self.cores:g} cores carry about {self.carries_tok_s:,.0f}"
        if share > 1:
            raise NotSimulated(
                f"this machine would distort the simulated times: {words}",
                remedy=f"ask for {1 / share:.0%} of the load, or slow the times down: TimingProfile.stretched({share * 2:.2g})",
            )
        return [
            *said,
            *([f"simulated, and the longest times (p99) may be this machine's: {words}"] if share > ROOM else []),
        ]

    def judged(self, run: Run, window: Window) -> dict[str, Any]:
        """The manifest's entry with one window more: ITL by the profile under the load that was served, and as measured."""
        kept = run.manifest[KEY]
        found = self._compared(run, window)
        return {KEY: {**kept, "windows": {**kept["windows"], str(window.measurement): found}}}

    def _compared(self, run: Run, window: Window) -> dict[str, Any]:
        summary = summarise(run.digest(), window)
        itl_s, tokens, e2e_s = (summary[name] for name in ("itl_mean_s", "output_tokens", "e2e_mean_s"))
        isl, osl = (Lengths.parse(window.workload.get(name) or 1).typical for name in ("isl", "osl"))
        if not itl_s or not tokens or not e2e_s or isl is None or osl is None or (summary["completed"] or 0) < _LEAST_REQUESTS:
            return {"itl_s": itl_s, "itl_by_profile_s": None, "most_off": MOST_OFF}
        topology = Topology(window.topology)
        count, decoding = self._decoding(topology)
        token_hz = tokens / window.length_s / count
        hz, context = token_hz / osl, isl + osl / 2
        # Little: tokens a second of a worker, each of which holds its context for one gap
        by_profile_s = decoding.itl(token_hz * itl_s * context, context)
        if topology.is_disaggregated:
            tail = {"itl_p99_s": summary["itl_p99_s"]}  # no prefill stands between these tokens
            return {"itl_s": itl_s, "itl_by_profile_s": by_profile_s, "most_off": MOST_OFF, **tail}
        others = 1 - 1 / max(1.0, hz * e2e_s)  # of the requests that a worker holds, whose prefills a token waits for
        by_profile_s /= max(0.05, 1 - hz * decoding.prefill(isl) * others)
        return {"itl_s": itl_s, "itl_by_profile_s": by_profile_s, "most_off": MOST_OFF_AGGREGATED}

    def _decoding(self, topology: Topology) -> tuple[int, TimingProfile]:
        role = Role.DECODE if topology.is_disaggregated else Role.AGGREGATED
        group = next(group for group in topology.groups if group.role is role)
        return topology.count(role), self._of(group.tp)

    def _prefilling(self, topology: Topology) -> TimingProfile:
        role = Role.PREFILL if topology.is_disaggregated else Role.AGGREGATED
        return self._of(next(group for group in topology.groups if group.role is role).tp)

    def _of(self, tp: int) -> TimingProfile:
        if tp not in self.profiles:
            has = ", ".join(f"TP {known}" for known in self.profiles)
            raise SpecError(f"there is no timing profile of TP {tp} (there is {has})", remedy=f"make one for TP {tp} as well")
        return self.profiles[tp]


def simulated(
    engine: str, options: EngineOptions, hosts: LocalHost | RemoteHosts
) -> tuple[Simulation | None, LocalHost | RemoteHosts]:
    """The simulation that an engine makes, if it does, and the machines that its workers believe to be on; raises as ``of``."""
    made = Simulation.of(engine, options, hosts.node)
    return made, hosts if made is None else LocalHost(made.node(hosts.node))
