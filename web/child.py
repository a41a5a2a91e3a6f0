"""The process that restores one video for the server: `python -m bsst.web.child`.

Standard input is its life line: one line of JSON says what to do, and its end says stop. So the process ends with a
server that was killed, as it does when it is asked to, on every system alike, and keeps what it finished. Standard
output is JSON lines: `info`, `warning`, `progress`, `preview` once that can be watched, and `result` or `error` at the
end.
"""

from __future__ import annotations

import _thread
import json
import os
import signal
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from filelock import FileLock, Timeout

from bsst.errors import EXIT_INTERRUPTED, EXIT_REPAIRED, BsstError

__all__ = ["main"]

PROGRESS_SECONDS = 0.25
PREVIEW_SECONDS = 1
PREDECESSOR_SECONDS = 60
"""A process that a killed server left behind ends by itself within seconds."""


def main() -> int:
    """Do what standard input says; the exit status is that of `bsst run`."""
    events = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    sys.stdout = sys.stderr  # nothing but events may get in between them
    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_follow_input, daemon=True).start()
    status, message = 0, ""
    try:
        with FileLock(Path(request["result"]).with_name("running"), timeout=PREDECESSOR_SECONDS):
            return _restore(request, events)
    except Timeout:
        status, message = 4, "expected the process of an earlier server to end, it still works; end it, then resume"
    except KeyboardInterrupt as error:
        status, message = EXIT_INTERRUPTED, str(error) or "interrupted"
    except BsstError as error:
        status, message = error.exit_code, str(error)
    except MemoryError:
        status, message = 6, "expected more memory, ran out; close other programs or scale the video down"
    except Exception as error:
        import traceback

        traceback.print_exception(error)
        status, message = 1, f"{type(error).__name__}: {error}; this is a bug, the job's log.txt says where"
    _write(events, "error", message=" ".join(message.split()), status=status)
    return status


def _restore(request: dict[str, Any], events: TextIO) -> int:
    from bsst.runtime.job import deblur
    from bsst.runtime.jobs.options import OutputFormat
    from bsst.runtime.jobs.part import Part

    trouble = "" if request["preview"] is None else _preview(request, events)
    start, end = request["start"], request["end"]
    result = deblur(
        request["source"],
        request["result"],
        part=Part.of(start=start or None, end=end or None) if start or end else None,
        output_format=OutputFormat(lossless=request["lossless"], crf=request["crf"]),
        **_alike(request, events),
    )
    summary = asdict(result)
    del summary["output"], summary["warnings"]
    if trouble:
        _write(events, "warning", message=trouble)
    _write(events, "result", **summary)
    return EXIT_REPAIRED if result.repaired else 0


def _preview(request: dict[str, Any], events: TextIO) -> str:
    """Restore the blurriest second -> what went wrong, which the job itself says first where it is fatal."""
    from bsst.runtime.job import deblur
    from bsst.runtime.jobs.options import OutputFormat
    from bsst.runtime.jobs.part import Preview

    try:
        deblur(
            request["source"],
            request["preview"],
            part=Preview(seconds=PREVIEW_SECONDS),
            output_format=OutputFormat(crf=request["crf"], audio="none"),
            **_alike(request, events, preview=True),
        )
    except BsstError as error:
        return f"no preview: {' '.join(str(error).split())}"
    _write(events, "preview")
    return ""


def _alike(request: dict[str, Any], events: TextIO, **marks: bool) -> dict[str, Any]:
    """Arguments that the preview and the whole have in common; `marks` go with each progress."""
    from bsst.runtime.jobs.options import Execution
    from bsst.runtime.jobs.report import Observer, Progress

    last = 0.0

    def on_progress(progress: Progress) -> None:
        nonlocal last
        if time.monotonic() - last >= PROGRESS_SECONDS:
            last = time.monotonic()
            _write(events, "progress", **asdict(progress), **marks)

    return {
        "plan": request["plan"],
        "overwrite": True,
        "execution": Execution(threads=request["threads"]),
        "observer": Observer(
            info=lambda line: _write(events, "info", message=line),
            warning=lambda line: _write(events, "warning", message=line),
            progress=on_progress,
        ),
    }


def _write(events: TextIO, event: str, **values: Any) -> None:
    print(json.dumps({"event": event, **values}), file=events, flush=True)


def _follow_input() -> None:
    """Interrupt the main thread, once, as Ctrl-C would, when standard input ends."""
    while sys.stdin.readline():
        pass
    if hasattr(signal, "pthread_kill"):  # wakes a thread that waits for a lock, which interrupt_main does not
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    else:
        _thread.interrupt_main()


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    os._exit(status)  # the thread above reads standard input, for whose lock an orderly end would wait
