"""What a person asks of the controller: left in its state, so that it is taken up in the next step, now or later."""

import time
from collections.abc import Mapping

from daemon.config import Config
from daemon.state import Commands, StateError, open_state, transaction

#: How the answer to a command begins that cannot be carried out.
REFUSED = "refused: "

#: How often the answer to a command is looked for, in seconds.
LOOK = 0.05


def steer(config: Config, name: str, arguments: Mapping[str, str], *, wait: float = 0.0) -> str:
    """Leave a command for the controller, which takes it up in its next step, now or when it is started.

    Returns what came of it, once there is an answer within `wait` seconds.

    Raises:
        StateError: no daemon's state is there.
    """
    if not (config.home / "state.db").is_file():
        raise StateError(f"there is no state in {config.home}; is that the daemon's home?")
    db = open_state(config.home / "state.db")
    try:
        commands = Commands(db)
        with transaction(db):
            seq = commands.ask(time.time(), name, arguments)
        until = time.monotonic() + wait
        while (outcome := commands.outcome(seq)) is None and time.monotonic() < until:
            time.sleep(LOOK)
        return outcome or "waiting: the controller has not taken it up yet"
    finally:
        db.close()
