"""The service as an ASGI application; `bsst.web.openapi` describes every route, and a test holds the two together."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import Any, cast

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from bsst.errors import BsstError, InputError, UsageError
from bsst.files import what_is_at
from bsst.web.access import Access, Headline
from bsst.web.fetch import fetched, url_name
from bsst.web.intake import StalledError, TooLargeError, clean_name, receive
from bsst.web.openapi import docs_page, openapi
from bsst.web.options import JobOptions, Limits
from bsst.web.runner import CHILD, Runner
from bsst.web.store import Job, JobStore

__all__ = ["Settings", "create_app"]

JSON_BYTES = 65536
HEARTBEAT_SECONDS = 15
"""Between two signs of life of a stream of events, which proxies cut when it is silent."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a server is started with."""

    token: str
    plans: Mapping[str, Path | None]
    """Files by name; None is the packaged plan."""
    hosts: tuple[str, ...] = ("127.0.0.1", "localhost")
    """Names of this server; a request for another one comes from a page that lies about where it is."""
    files: bool = False
    """Callers may name files of this machine. For the page of its own user; never for strangers."""
    urls: bool = False
    """Callers may have the server fetch public addresses."""
    threads: int = 0
    """Of the network; 0 for all cores."""
    limits: Limits = Limits()


def create_app(store: JobStore, settings: Settings, *, command: Sequence[str] = CHILD) -> Starlette:
    """The application over the jobs of an opened store; `command` as of `Runner`."""
    service = _Service(store, settings, command)
    page = resources.files("bsst.web").joinpath("page.html").read_text(encoding="utf-8")
    description = openapi(metadata.version("bsst"))
    docs = docs_page(description)

    async def show(request: Request) -> Response:
        return HTMLResponse({"/": page, "/docs": docs}[request.url.path])

    async def describe(request: Request) -> Response:
        return JSONResponse(description)

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    routes = [
        Route("/", show),
        Route("/docs", show),
        Route("/openapi.json", describe),
        Route("/health", health),
        Route("/settings", service.settings_answer),
        Route("/events", service.all_events),
        Route("/jobs", service.list_jobs),
        Route("/jobs", service.create, methods=["POST"]),
        Route("/jobs/{id}", service.show_job),
        Route("/jobs/{id}", service.remove, methods=["DELETE"]),
        Route("/jobs/{id}/events", service.job_events),
        Route("/jobs/{id}/source", service.source),
        Route("/jobs/{id}/preview", service.preview),
        Route("/jobs/{id}/result", service.result),
        Route("/jobs/{id}/cancel", service.cancel, methods=["POST"]),
        Route("/jobs/{id}/resume", service.resume, methods=["POST"]),
    ]

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(service.runner.run())
        yield
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    return Starlette(
        routes=routes,
        lifespan=lifespan,
        middleware=[
            Middleware(Headline, pages=[page, docs]),
            Middleware(TrustedHostMiddleware, allowed_hosts=list(settings.hosts), www_redirect=False),
            Middleware(Access, token=settings.token),
        ],
        exception_handlers={
            HTTPException: _http_error,
            BsstError: _bsst_error,
            ClientDisconnect: _bsst_error,
            Exception: _bug,
        },
    )


class _Service:
    def __init__(self, store: JobStore, settings: Settings, command: Sequence[str]) -> None:
        self.store, self.settings = store, settings
        self.runner = Runner(store, settings.plans, settings.limits, threads=settings.threads, command=command)

    async def settings_answer(self, request: Request) -> Response:
        limits = self.settings.limits
        return JSONResponse({
            "plans": list(self.settings.plans),
            "options": JobOptions().to_json(),
            "files": self.settings.files,
            "urls": self.settings.urls,
            "upload_bytes": limits.upload_bytes,
            "version": metadata.version("bsst"),
        })  # fmt: skip

    async def list_jobs(self, request: Request) -> Response:
        return JSONResponse(self._public())

    async def create(self, request: Request) -> Response:
        if len(self.store.jobs) >= self.settings.limits.jobs:
            raise TooLargeError(
                f"expected fewer than {self.settings.limits.jobs} jobs, got as many; remove finished ones"
            )
        by_name = request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"
        room = self.store.room()
        try:
            job = await (self._named(request, room) if by_name else self._uploaded(request, room))
        except BaseException:
            shutil.rmtree(room, ignore_errors=True)
            raise
        self.runner.changed()
        return JSONResponse(self._public_job(job), 201, {"Location": f"/jobs/{job.id}"})

    async def show_job(self, request: Request) -> Response:
        return JSONResponse(self._public_job(self._job(request)))

    async def remove(self, request: Request) -> Response:
        await self.runner.remove(self._job(request))
        return Response(status_code=204)

    async def cancel(self, request: Request) -> Response:
        job = self._job(request)
        await self.runner.cancel(job)
        return JSONResponse(self._public_job(job))

    async def resume(self, request: Request) -> Response:
        job = self._job(request)
        self.runner.resume(job)
        return JSONResponse(self._public_job(job))

    async def source(self, request: Request) -> Response:
        job = self._job(request)
        if not job.is_video:
            raise HTTPException(409, "expected a source that was opened as a video, this one was not; wait for the job")
        if not job.source.is_file():
            raise InputError(f"expected the source {job.name} where it was, it is gone; put it back")
        return FileResponse(job.source, filename=job.name, content_disposition_type="inline")

    async def preview(self, request: Request) -> Response:
        job = self._job(request)
        if not job.previewed:
            raise HTTPException(409, "expected a job with a preview, this one has none yet; ask for it, and wait")
        return FileResponse(job.preview, content_disposition_type="inline")

    async def result(self, request: Request) -> Response:
        job = self._job(request)
        if job.state != "done":
            raise HTTPException(409, f"expected a job that is done, this one is {job.state}; wait for it")
        kind = "attachment" if "download" in request.query_params else "inline"
        return FileResponse(job.result, filename=job.download, content_disposition_type=kind)

    async def all_events(self, request: Request) -> Response:
        async def states() -> AsyncIterator[str]:
            async for fresh in self.runner.changes(HEARTBEAT_SECONDS):
                yield _event("jobs", self._public()) if fresh else ": still here\n\n"

        return _stream(states())

    async def job_events(self, request: Request) -> Response:
        job = self._job(request)

        async def states() -> AsyncIterator[str]:
            last = ""
            async for _ in self.runner.changes(HEARTBEAT_SECONDS):
                if job.id not in self.store.jobs:
                    yield _event("removed", {"id": job.id})
                    return
                text = _event(job.state, self._public_job(job))
                yield text if text != last else ": still here\n\n"
                last = text
                if job.state not in ("queued", "running"):
                    return

        return _stream(states())

    async def _uploaded(self, request: Request, room: Path) -> Job:
        values = dict(request.query_params)
        values.pop("token", None)
        name = clean_name(values.pop("name", ""))
        options = JobOptions.from_mapping(values, plans=self.settings.plans)
        length = request.headers.get("content-length", "")
        announced = int(length) if length.isdigit() else None
        chunks = cast(AsyncIterator[bytes], request.stream())
        source = await receive(chunks, room, name, announced=announced, store=self.store, limits=self.settings.limits)
        return self.store.add(room, name, source, options)

    async def _named(self, request: Request, room: Path) -> Job:
        values = await _json_object(request)
        options = JobOptions.from_mapping(
            {name: value for name, value in values.items() if name not in ("file", "url")}, plans=self.settings.plans
        )
        file, url = values.get("file"), values.get("url")
        if isinstance(file, str) and url is None:
            if not self.settings.files:
                raise HTTPException(403, "expected an upload, got the name of a file, which this server does not open")
            path = Path(file).expanduser()
            if not path.is_absolute() or (found := what_is_at(path)) != "a file":
                found = found if path.is_absolute() else "a relative name"
                raise UsageError(f"expected the full path of a video file on this computer, got {found}: {file[:200]}")
            return self.store.add(room, clean_name(path.name), path, options)
        if isinstance(url, str) and file is None:
            if not self.settings.urls:
                raise HTTPException(403, "expected an upload, got a URL; the server was started without --allow-urls")
            name = clean_name(url_name(url))
            async with fetched(url) as (announced, chunks):
                source = await receive(
                    chunks, room, name, announced=announced, store=self.store, limits=self.settings.limits
                )
            return self.store.add(room, name, source, options)
        raise UsageError('expected {"file": "/path/of/video"} or {"url": "https://..."}, got neither or both')

    def _job(self, request: Request) -> Job:
        job = self.store.jobs.get(request.path_params["id"])
        if job is None:
            raise HTTPException(404, "expected the id of a job, no job has this one; GET /jobs lists them")
        return job

    def _public(self) -> list[dict[str, Any]]:
        return [self._public_job(job) for job in self.store.jobs.values()]

    def _public_job(self, job: Job) -> dict[str, Any]:
        before = 0
        for other in self.store.jobs.values():
            if other is job:
                break
            before += other.state in ("queued", "running")
        return {**job.public(), "jobs_before": before if job.state == "queued" else 0}


async def _json_object(request: Request) -> dict[str, Any]:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > JSON_BYTES:
            raise TooLargeError(f"expected a JSON object of at most {JSON_BYTES} bytes, got more")
    try:
        values = json.loads(body)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise UsageError("expected a JSON object as the body, got something else; to upload, send another content type")
    return values


def _event(kind: str, values: Any) -> str:
    return f"event: {kind}\ndata: {json.dumps(values)}\n\n"


def _stream(states: AsyncIterator[str]) -> Response:
    return StreamingResponse(states, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


def _bsst_error(request: Request, error: Exception) -> Response:
    statuses = [
        (TooLargeError, 413),
        (StalledError, 408),
        (ClientDisconnect, 400),
        (UsageError, 400),
        (InputError, 422),
    ]
    status = next((status for kind, status in statuses if isinstance(error, kind)), 500)
    message = str(error) or "expected the rest of the request, the caller left"
    # What is left of the body is not read: the connection cannot be used again.
    return JSONResponse({"error": " ".join(message.split())}, status, {"Connection": "close"})


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = (
        error.detail if "expected" in error.detail else f"expected a page of this server, got {request.url.path[:80]}"
    )
    return JSONResponse({"error": message}, error.status_code, error.headers)


def _bug(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": f"{type(error).__name__}; this is a bug, the server's terminal says where"}, 500)
