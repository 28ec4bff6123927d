"""Run the engine tests in two halves, side by side: `python -m tests.engine [pytest's arguments]`.

One half is content with one engine, the other has the Swarm of three; they mostly wait, and so take little more
than half the time together. What both need is made once, before: the engine, the base images, the bridge, and a
first build of the images that most tests begin with.
Where no engine answers and none can be started, pytest runs as it is, and says what is missing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests.engine import base_image, bridge, dcf_image, function_images, go_image, host_engine
from tests.engine.conftest import held_names

HERE = str(Path(__file__).parent)


def main(arguments: list[str]) -> int:
    """Exit status: 0 where both halves passed and nothing was left behind."""
    can_start = os.geteuid() == 0 and shutil.which("dockerd") is not None
    if not (can_start and bridge.can_bridge()):
        return subprocess.run([sys.executable, "-m", "pytest", HERE, *arguments], check=False).returncode
    with ExitStack() as stack:
        left = stack.enter_context(held_names())
        engine = stack.enter_context(host_engine.host_engine(lambda: None))
        brought = base_image.provide_base_images(engine)
        go = go_image.provide_go_image(engine)
        stack.enter_context(bridge.bridge())
        with tempfile.TemporaryDirectory() as folder:
            own = [dcf_image.build_dcf_image(), function_images.build_echo(Path(folder))]
            # Not for itself: the next builds find Go's own library compiled.
            own.append(function_images.build_echo(Path(folder) / "go", "go"))
        status = run_halves(arguments)
        if engine.ours:
            litter = host_engine.find_litter(engine.client)
            complain("tests left in the engine, as they would in yours", litter)
            status = status or bool(litter)
        else:
            for image in own:
                engine.client.images.remove(image, force=True)
            if go:
                engine.client.images.remove(go_image.GO)
            base_image.remove_stand_ins(engine.client, brought)
    complain("left on this machine", left)
    return status or bool(left)


def run_halves(arguments: list[str]) -> int:
    """The Swarm's half is shown as it runs, the other one after it."""
    environ = {**os.environ, host_engine.PREPARED: "1"}
    command = [sys.executable, "-m", "pytest", HERE, *arguments, "-p", "no:cacheprovider", "-m"]
    with tempfile.TemporaryFile() as words:
        one = subprocess.Popen([*command, "not three_engines"], env=environ, stdout=words, stderr=words)
        three = subprocess.run([*command, "three_engines"], env=environ, check=False).returncode
        status = one.wait()
        words.seek(0)
        sys.stdout.write(words.read().decode(errors="replace"))
        sys.stdout.flush()
    return three or status


def complain(what: str, things: list[str]) -> None:
    if things:
        print(f"{what}:\n" + "\n".join(things), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
