"""An endpoint that somebody else runs: measured as it is, its split declared and not verified.

Its workers are known by the metrics pages that were named: of vLLM, of Dynamo's workers (which pass vLLM's metrics through), and
of a router or of Dynamo's frontend. A page that does not answer is told, and nothing waits for it.
"""

from __future__ import annotations

import re
import ssl
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from labkit.errors import LaunchError, ResplitError, SpecError
from labkit.serve.models import ServedModel
from labkit.spec import Role, Topology

_TIMEOUT_S: Final = 10.0
_PAGE_TIMEOUT_S: Final = 3.0
_AT_ONCE: Final = 16
_MOST_PORT: Final = 65535
#: Names of pages that are not a worker's.
_FRONTS: Final = frozenset({"router", "frontend"})
#: What the lab's own telemetry calls its sources.
_TAKEN: Final = re.compile(r"host|telemetry|gpu\d*|client.*|shard\d*|lab", re.IGNORECASE)
_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]*")
_NAMED: Final = re.compile(r"(?P<role>prefill|decode|aggregated|agg)(?![A-Za-z])", re.IGNORECASE)
_ROLES: Final = {"prefill": Role.PREFILL, "decode": Role.DECODE}
_ORDER: Final = (Role.AGGREGATED, Role.PREFILL, Role.DECODE, None)


class Attached:
    """Has the face of a deployment, and starts, changes and ends nothing.

    Attributes:
        watched: name, process id (none is known) and metrics page of each worker: in the order of the declared split.
        roles: of the workers, by their names (``prefill-0``, ``decode-1``, ``agg-2``) or by their place in the declared split.
        router_metrics: page of the router or frontend; ``None`` where none was named.
        doubts: what was found wrong with the pages, in words.
    """

    epoch = 0
    verified = False
    failures: tuple[LaunchError, ...] = ()

    def __init__(
        self,
        url: str,
        model: str,
        metrics: Mapping[str, str],
        topology: Topology | str | None,
        accelerators: float,
        accelerator: str,
    ) -> None:
        """Ask the endpoint for its models, and look at every metrics page once.

        Raises:
            LaunchError: the endpoint does not answer. A metrics page that does not is in ``doubts``.
            SpecError: it answers, and does not serve ``model``; an unknown accelerator; a name or URL of a page that cannot be
                meant; names that say other roles than the declared split.
        """
        _without_login("the endpoint's URL", url)
        if accelerator not in ("GPU", "core"):
            raise SpecError(f"unknown accelerator {accelerator!r}", remedy="use GPU or core")
        self.url = url.rstrip("/").removesuffix("/v1")
        self.topology: Topology | str = Topology(topology) if topology else "attached"
        self.accelerators = accelerators or float(self.topology.accelerators if isinstance(self.topology, Topology) else 0)
        self.accelerator = accelerator
        self.model = ServedModel(path=model, name=model, load_format="auto")
        pages = {_page_name(name): _page_url(name, page) for name, page in metrics.items()}
        fronts = {name: page for name, page in pages.items() if name.lower() in _FRONTS}
        if len(fronts) > 1:
            raise SpecError(f"{' and '.join(fronts)} are both a page of the front", remedy="name the one that the requests go to")
        self.router_metrics: str | None = next(iter(fronts.values()), None)
        workers = {name: page for name, page in pages.items() if name not in fronts}
        roles = _roles(tuple(workers), self.topology)
        self.roles: dict[str, Role] = {name: role for name, role in roles.items() if role is not None}
        ordered = sorted(workers, key=lambda name: _ORDER.index(roles[name]))
        self.watched: tuple[tuple[str, int | None, str | None], ...] = tuple((name, None, workers[name]) for name in ordered)
        self.devices_by_worker: dict[str, dict[str, Any]] = {}
        self._check()
        self.doubts = _look_at(pages)

    def _check(self) -> None:
        try:
            answer = httpx.get(f"{self.url}/v1/models", timeout=_TIMEOUT_S, trust_env=False, verify=_trusted())
        except httpx.InvalidURL as error:
            raise SpecError(f"{self.url!r} is no http URL: {error}", remedy="give its address: http://10.0.0.1:8000") from None
        except httpx.HTTPError as error:
            raise LaunchError(f"{self.url} does not answer: {error}", remedy="check the URL, and that the server is up") from None
        served = [str(entry.get("id")) for entry in _entries(answer)]
        if served and self.model.name not in served:
            raise SpecError(f"{self.url} does not serve {self.model.name!r}", remedy=f"it serves {', '.join(served)}")

    def refusal(self) -> ResplitError:
        """Why it cannot be re-split."""
        return ResplitError(
            f"{self.url} was attached, not launched: its split is not the lab's to change",
            remedy="launch a deployment with Lab(model, topology), or change the split where the endpoint is run",
        )

    def refuse(self) -> None:
        """It is never changed."""

    def close(self) -> None:
        """Nothing of it is the lab's to end."""

    def __repr__(self) -> str:
        return f"<{self.model.name} attached at {self.url}, split {self.topology} (declared, not verified)>"


def _roles(names: tuple[str, ...], topology: Topology | str) -> dict[str, Role | None]:
    """By name; those whose name says nothing get what the declared split has left, if that is exactly enough."""
    roles: dict[str, Role | None] = {name: _named_role(name) for name in names}
    if not isinstance(topology, Topology):
        return roles
    declared = Counter(role for role, _ in topology.workers)
    told = Counter(role for role in roles.values() if role is not None)
    if more := [f"{told[role]} {role.noun}" for role in Role if told[role] > declared[role]]:
        raise SpecError(
            f"metrics pages of {' and '.join(more)} workers are named, and {topology} is declared",
            remedy="declare the split that runs (topology=), or name the pages otherwise, such as w0 and w1",
        )
    left = [role for role, _ in topology.workers if not _taken(told, role)]
    silent = [name for name, role in roles.items() if role is None]
    return {**roles, **(dict(zip(silent, left, strict=True)) if len(silent) == len(left) else {})}


def _taken(told: Counter[Role], role: Role) -> bool:
    """Whether a place of this role belongs to a worker whose name says so; counts it off."""
    told[role] -= 1
    return told[role] >= 0


def _named_role(name: str) -> Role | None:
    match = _NAMED.match(name)
    return None if match is None else _ROLES.get(match["role"].lower(), Role.AGGREGATED)


def _page_name(name: str) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name) or _TAKEN.fullmatch(name):
        raise SpecError(
            f"a metrics page cannot be called {name!r}",
            remedy="call workers prefill-0, decode-0 or w0, and the front router or frontend",
        )
    return name


def _without_login(what: str, url: str) -> None:
    """Addresses are shown, kept and handed on, so none may carry what only its owner should know."""
    try:
        split = urlsplit(url)
        carries = bool(split.username or split.password or split.query or split.fragment)
    except ValueError:
        return  # no URL at all: told where it is used
    if carries:
        raise SpecError(
            f"{what}, at {split.hostname!r}, carries a login, query or fragment",
            remedy="write http://HOST:PORT alone; a key goes into OPENAI_API_KEY",
        )


def _page_url(name: str, page: str) -> str:
    """The page itself; ``/metrics`` is added to a bare address."""
    if isinstance(page, str):
        _without_login(f"the metrics page of {name}", page)
    try:
        url = httpx.URL(page)
    except (httpx.InvalidURL, TypeError):
        url = httpx.URL()
    if url.scheme not in ("http", "https") or not url.host or (url.port or 1) > _MOST_PORT:
        raise SpecError(
            f"metrics page of {name}: {page!r} is no http URL", remedy="give its address, such as http://10.0.0.1:8100/metrics"
        )
    return str(url.copy_with(path="/metrics") if url.path in ("", "/") else url)


def _look_at(pages: Mapping[str, str]) -> tuple[str, ...]:
    """What is wrong with the pages, all asked at once."""
    if not pages:
        return ()
    with ThreadPoolExecutor(min(_AT_ONCE, len(pages))) as threads:
        found = threads.map(partial(_fault, trusted=_trusted()), pages.values())
        return tuple(f"metrics page of {name} at {pages[name]}: {why}" for name, why in zip(pages, found, strict=True) if why)


def _trusted() -> ssl.SSLContext:
    """The certificates that the load trusts too: the machine's, or those of ``SSL_CERT_FILE`` and ``SSL_CERT_DIR``."""
    return ssl.create_default_context()


def _fault(url: str, trusted: ssl.SSLContext) -> str:
    try:
        with httpx.stream("GET", url, timeout=_PAGE_TIMEOUT_S, trust_env=False, verify=trusted) as answer:
            return "" if answer.status_code == 200 else f"HTTP {answer.status_code}"
    except httpx.TimeoutException:
        return "no answer in time"
    except httpx.HTTPError as error:
        return str(error) or type(error).__name__


def _entries(answer: httpx.Response) -> list[dict[str, Any]]:
    try:
        entries = answer.json().get("data")
    except (ValueError, AttributeError):
        return []
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
