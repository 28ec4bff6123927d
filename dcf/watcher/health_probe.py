"""Say whether the watcher beside us is well: exit status 0, or 1 with one line.

In:   the file named by DCF_STATE_FILE, which the watcher writes (state_file.py).
Out:  0 where it is fresh and says ready, busy or draining.
One file, standard library only: an image has it as /opt/dcf/health.py and runs
it every few seconds, so it must import next to nothing.
"""

import json
import os
import sys
import time

STALE_S = 10.0
"""The watcher writes every 2 s; one whose event loop hangs for this long serves nobody."""
HEALTHY = ("ready", "busy", "draining")
"""A replica that drains is well: to kill it would lose the calls that it finishes."""


def probe(path: str, now: float) -> str:
    """What is wrong, as one clause; "" where all is well. `now` as time.monotonic() says it."""
    if not path:
        return "DCF_STATE_FILE is not set: the watcher writes no state"
    try:
        with open(path, encoding="utf-8") as file:
            said = json.load(file)
    except OSError as error:
        return f"the watcher has written no state yet ({error.strerror})"
    except ValueError:
        return f"{path} holds no JSON"
    if said["state"] not in HEALTHY:
        return f"the replica is {said['state']}"
    age_s = now - said["at"]
    return f"the watcher has said nothing for {age_s:.0f} s" if age_s > STALE_S else ""


if __name__ == "__main__":
    problem = probe(os.environ.get("DCF_STATE_FILE", ""), time.monotonic())
    if problem:
        print(problem)  # noqa: T201 - what `docker inspect` shows
    sys.exit(1 if problem else 0)
