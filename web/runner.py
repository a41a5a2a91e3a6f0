"""Takes one job after the other, each in a process of its own, and tells whoever listens what changed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bsst.errors import EXIT_INTERRUPTED, EXIT_REPAIRED, BsstError, UsageError
from bsst.web.options import Limits
from bsst.web.store import Job, JobStore

__all__ = ["CHILD", "Runner"]

CHILD = (sys.executable, "-m", "bsst.web.child")
STOP_SECONDS = 20
"""A process that was asked to stop and has not is killed; its finished segments are on disk."""
LINE_BYTES = 1 << 20


class Runner:
    """Runs queued jobs, one at a time.

    Args:
        store: holds the jobs.
        plans: plan file by name; None is the packaged one.
        limits: of the server.
        threads: of the network; 0 for all cores.
        command: speaks as `bsst.web.child` does.
    """

    def __init__(
        self,
        store: JobStore,
        plans: Mapping[str, Path | None],
        limits: Limits,
        *,
        threads: int = 0,
        command: Sequence[str] = CHILD,
    ) -> None:
        self.store, self.plans, self.limits = store, plans, limits
        self._threads, self._command = threads, command
        self._version = 0
        self._changed = asyncio.Condition()
        self._process: Process | None = None
        self._running: Job | None = None
        self._wish: str = ""
        self._telling: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Until it is cancelled, which stops the running job as a restart would find it."""
        try:
            while True:
                job = self.store.waiting()
                if job is None:
                    await self._next_change()
                else:
                    await self._run(job)
        finally:
            await self._stop()

    def changed(self) -> None:
        """Wake whoever waits for a change of any job."""
        self._version += 1
        task = asyncio.get_running_loop().create_task(self._notify())
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def changes(self, seconds: float) -> AsyncIterator[bool]:
        """True at once and after each change, False after `seconds` without one; several changes count as one."""
        seen = -1
        while True:
            fresh = seen != self._version
            seen = self._version
            yield fresh
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._next_change(seen), seconds)

    async def cancel(self, job: Job) -> None:
        """Stop a job and keep what it finished. A job that has ended stays as it is."""
        if job.state == "queued":
            self._set(job, "cancelled")
        elif job is self._running:
            self._wish = "cancelled"
            await self._stop()
            while self._running is job:
                await self._next_change()

    def resume(self, job: Job) -> None:
        """Queue a job again that was cancelled or failed; it goes on where it was.

        Raises:
            UsageError: it is done or under way.
        """
        if job.state not in ("cancelled", "failed"):
            raise UsageError(
                f"expected a job that was cancelled or failed, got one that is {job.state}; nothing to resume"
            )
        job.error, job.exit_status = "", None
        self._set(job, "queued")

    async def remove(self, job: Job) -> None:
        """Cancel where needed, then forget."""
        await self.cancel(job)
        self.store.remove(job)
        self.changed()

    async def _run(self, job: Job) -> None:
        self._running, self._wish = job, ""
        job.progress, job.info, job.warnings = {}, [], []
        ended: dict[str, Any] = {}
        self._set(job, "running")
        try:
            if job.options.plan not in self.plans:
                raise UsageError(f"expected the plan {job.options.plan} again, got a server without it; add --plan")
            if self.store.used_bytes() > self.limits.disk_bytes:
                raise UsageError("expected room on the server's disk, its limit is reached; remove finished jobs")
            ended = await self._process_job(job)
        except asyncio.CancelledError:
            self._wish = "queued"  # the server ends; the next one goes on
            raise
        except Exception as error:  # the queue goes on, whatever becomes of a job
            message = str(error) if isinstance(error, BsstError) else f"{type(error).__name__}: {error}"
            ended = {"event": "error", "message": message, "status": getattr(error, "exit_code", 1)}
        finally:
            self._running = None
            self._end(job, ended)

    def _end(self, job: Job, ended: dict[str, Any]) -> None:
        job.progress = {}
        if ended.get("event") == "result":
            job.summary = {name: value for name, value in ended.items() if name != "event"}
            job.exit_status = EXIT_REPAIRED if ended["repaired"] else 0
            self._set(job, "done")
        elif self._wish:
            job.exit_status = EXIT_INTERRUPTED if self._wish == "cancelled" else None
            self._set(job, self._wish)
        else:
            job.error, job.exit_status = ended["message"], ended["status"]
            self._set(job, "failed")

    async def _process_job(self, job: Job) -> dict[str, Any]:
        """Run the process of a job; its last event."""
        request = {
            "source": str(job.source),
            "result": str(job.result),
            "plan": None if (plan := self.plans[job.options.plan]) is None else str(plan),
            **{name: getattr(job.options, name) for name in ("crf", "lossless", "start", "end")},
            "preview": str(job.preview) if job.options.preview and not job.previewed else None,
            "threads": self._threads,
        }
        with (job.folder / "log.txt").open("ab") as log:
            self._process = process = await asyncio.create_subprocess_exec(
                *self._command, stdin=PIPE, stdout=PIPE, stderr=log, limit=LINE_BYTES
            )
        assert process.stdin is not None
        assert process.stdout is not None
        last: dict[str, Any] = {}
        try:
            with contextlib.suppress(ConnectionError):
                process.stdin.write(json.dumps(request).encode() + b"\n")
                await process.stdin.drain()
            async for line in process.stdout:
                event: dict[str, Any] = json.loads(line)
                kind = event["event"]
                if kind == "progress":
                    job.progress = {name: value for name, value in event.items() if name != "event"}
                elif kind in ("info", "warning"):  # none comes before the source was opened
                    job.is_video = True
                    (job.info if kind == "info" else job.warnings).append(event["message"])
                elif kind == "preview":
                    job.previewed, job.progress = True, {}
                    self._set(job, "running")
                else:
                    last = event
                self.changed()
            status = await process.wait()
        except BaseException:
            await self._stop()
            raise
        finally:
            self._process = None
        return last or {
            "event": "error",
            "message": f"the process that restores ended with status {status} and without a word; "
            f"if the system killed it, memory was short: resume with fewer programs open",
            "status": 1,
        }

    async def _stop(self) -> None:
        process = self._process
        if process is None or process.stdin is None:
            return
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    def _set(self, job: Job, state: Any) -> None:
        job.state = state
        try:
            self.store.save(job)
        except BsstError as error:  # a full disk; what is stored is the state before, from which a restart goes on
            job.warnings.append(str(error))
        self.changed()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _next_change(self, seen: int | None = None) -> None:
        seen = self._version if seen is None else seen
        async with self._changed:
            await self._changed.wait_for(lambda: self._version != seen)
