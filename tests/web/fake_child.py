"""Stands in for `bsst.web.child`: what it does is written in the source that it is given.

An argument names a file: while it is there, a video is not restored further than half.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

SUMMARY = {"frames": 12, "fallback": 0, "guarded": 0, "repaired": 0, "seconds": 1.5, "fps": 8.0}


def say(event: str, **values: Any) -> None:
    print(json.dumps({"event": event, **values}), flush=True)


request = json.loads(sys.stdin.readline())
source, result = Path(request["source"]), Path(request["result"])
head = source.read_bytes()[:12]
behaviour = head.split(b" ")[0]
if head[4:8] == b"ftyp":  # a video, of which a step is finished at a time
    closed = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), closed.set()), daemon=True).start()
    say("info", message="decoder fake")
    if request["preview"]:
        say("progress", frames=1, work=1.0, total=25, fps=5.0, eta_seconds=4.8, preview=True)
        if closed.wait(0.5):
            os._exit(130)
        shutil.copyfile(source, request["preview"])
        say("preview")
    kept, first = result.with_name("steps"), 0
    if kept.exists():
        first = int(kept.read_text())
    say("warning", message=f"goes on at step {first}")
    for step in range(first + 1, 41):
        if closed.wait(0.02):
            say("error", message="interrupted", status=130)
            sys.stdout.flush()
            os._exit(130)
        kept.write_text(str(step))
        say("progress", frames=step, work=float(step), total=40, fps=25.0, eta_seconds=(40 - step) / 25)
        while step == 20 and any(map(os.path.exists, sys.argv[1:])):
            if closed.wait(0.05):
                say("error", message="interrupted", status=130)
                sys.stdout.flush()
                os._exit(130)
    shutil.copyfile(source, result)
    say("result", **SUMMARY)
    sys.stdout.flush()
    os._exit(0)
if behaviour == b"secret":
    say("error", message="expected a video, got a secret; send a video", status=3)
    sys.exit(3)
say("info", message=f"decoder fake, crf {request['crf']}")
say("warning", message="a warning")
say("progress", frames=3, work=3.5, total=12, fps=2.0, eta_seconds=4.25)
kept = result.with_name("segment")
if behaviour == b"die":
    sys.exit(11)
if behaviour == b"wait" and not kept.exists():
    kept.write_bytes(b"finished part")
    sys.stdin.read()
    say("error", message="interrupted; 3 frames are kept", status=130)
    sys.exit(130)
result.write_bytes(b"0123456789" * 10)
say("result", **{**SUMMARY, "repaired": int(behaviour == b"repair")})
