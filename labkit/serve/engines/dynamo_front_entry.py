"""Starts Dynamo's frontend with an exchange of its workers' events beside it; run with the engine's interpreter.

Without one each publisher of events listens itself, and Dynamo (1.6.1) binds that socket to all addresses, whatever it is told.
With ``DYN_ZMQ_BROKER_URL`` publishers and subscribers *connect*, to an XSUB and an XPUB socket of ZeroMQ. Here both are files in
the deployment's own folder, which nobody else may enter. A frontend that takes another's place uses the exchange of that one
while it lives, then binds the files anew; whoever was connected comes back by himself.
"""

import os
import re
import runpy
import socket
import sys
import threading

BROKER = "DYN_ZMQ_BROKER_URL"
#: Events that wait for one reader; those beyond are dropped, as ZeroMQ does.
_MOST_WAITING = 100_000
_FORM = re.compile(r"xsub=ipc://(\S+) , xpub=ipc://(\S+)")


def _exchange(url: str) -> None:
    """Pass on what comes, for as long as the process lives; ZeroMQ's loop does not hold the interpreter's lock."""
    import zmq

    found = _FORM.fullmatch(url)
    assert found is not None, url
    _wait_for_the_end_of(found[2])
    context = zmq.Context()
    ends = [context.socket(kind) for kind in (zmq.XSUB, zmq.XPUB)]
    for end, path in zip(ends, found.groups(), strict=True):
        end.set_hwm(_MOST_WAITING)
        end.linger = 0
        end.bind(f"ipc://{path}")
    zmq.proxy(*ends)


def _wait_for_the_end_of(path: str) -> None:
    """Return when nobody listens on this file. A connection to another frontend's exchange ends with that one, or before."""
    while True:
        with socket.socket(socket.AF_UNIX) as near:
            try:
                near.connect(path)
            except OSError:
                return
            try:
                while near.recv(4096):
                    pass
            except OSError:
                continue


if __name__ == "__main__":
    _here = os.path.dirname(os.path.realpath(__file__))  # noqa: PTH120 (its dynamo.py is another)
    sys.path[:] = [entry for entry in sys.path if os.path.realpath(entry) != _here]
    threading.Thread(target=_exchange, args=(os.environ[BROKER],), name="exchange", daemon=True).start()
    sys.argv[0] = "dynamo.frontend"
    runpy.run_module("dynamo.frontend", run_name="__main__", alter_sys=True)
