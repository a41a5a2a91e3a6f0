"""The service in OpenAPI 3.1, and as a page to read without a network."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

from bsst.runtime.video.quality import DEFAULT_CRF
from bsst.runtime.video.writer import CONTAINERS
from bsst.web.options import PACKAGED

__all__ = ["docs_page", "openapi"]

OPTIONS: dict[str, Any] = {
    "plan": {"type": "string", "default": PACKAGED, "description": "A name from GET /settings."},
    "crf": {"type": "integer", "minimum": 0, "maximum": 51, "default": DEFAULT_CRF,
            "description": "Quality of the encoder; 0 is best, 16 looks alike at a quarter of the size."},
    "lossless": {"type": "boolean", "default": False, "description": "Keep the restored frames exactly."},
    "format": {"type": "string", "enum": ["source", *(suffix[1:] for suffix in CONTAINERS)], "default": "source"},
    "start": {"type": "string", "description": "Restore from here on: seconds, or 1:30, or 0:01:30.5."},
    "end": {"type": "string", "description": "Restore up to here."},
    "preview": {"type": "boolean", "default": False,
                "description": "Restore the blurriest second first; not with start or end."},
}  # fmt: skip
JOB: dict[str, Any] = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "name": {"type": "string", "description": "File name of the source."},
        "state": {"type": "string", "enum": ["queued", "running", "done", "failed", "cancelled"]},
        "jobs_before": {"type": "integer", "description": "Jobs that come first, of a job that is queued."},
        "created": {"type": "number", "description": "Seconds since 1970."},
        "progress": {
            "type": "object",
            "description": "frames, work, total, fps, eta_seconds of a job that runs; "
            "`preview` is true while they are those of the preview.",
        },
        "previewed": {"type": "boolean", "description": "There is a preview."},
        "error": {"type": "string", "description": "One line, of a job that failed."},
        "exit_status": {"type": ["integer", "null"], "description": "As `bsst run` would end."},
        "warnings": {"type": "array", "items": {"type": "string"}},
        "info": {"type": "array", "items": {"type": "string"}},
        "summary": {"type": "object", "description": "frames, seconds, fps, guarded, repaired, fallback when done."},
        "options": {"type": "object", "properties": OPTIONS},
        "start_seconds": {"type": "number", "description": "Where in the source the result begins."},
        "download": {"type": "string", "description": "File name of the result."},
    },
}
FORBIDDEN = "The server was started without what the request needs."


def openapi(version: str) -> dict[str, Any]:
    """The description, as JSON values."""
    job = {"application/json": {"schema": {"$ref": "#/components/schemas/Job"}}}
    jobs = {"application/json": {"schema": {"type": "array", "items": {"$ref": "#/components/schemas/Job"}}}}
    events = {"text/event-stream": {"schema": {"type": "string"}}}
    video = {"video/*": {"schema": {"type": "string", "format": "binary"}}}
    html: dict[str, Any] = {"text/html": {}}
    anything: dict[str, Any] = {"application/json": {}}
    named = {"type": "object", "properties": {"file": {"type": "string"}, "url": {"type": "string"}, **OPTIONS}}
    query = [{"name": name, "in": "query", "schema": schema} for name, schema in OPTIONS.items()]
    name = {"name": "name", "in": "query", "schema": {"type": "string"}, "description": "File name of an upload."}
    create = {
        **_says("Add a job: a video as the body, or a JSON object that names one", 201, job, 400, 403, 408, 413),
        "description": "An upload is the bare file, with its `name` and options in the query: "
        "`curl -T clip.mp4 -X POST -H 'Authorization: Bearer TOKEN' 'http://127.0.0.1:8642/jobs?name=clip.mp4'`. "
        'With `Content-Type: application/json`, `{"url": "https://..."}` has the server fetch a public address '
        '(--allow-urls), `{"file": "/path"}` names a file of its machine (`bsst web` only).',
        "parameters": [name, *query],
        "requestBody": {"content": {**video, "application/json": {"schema": named}}},
    }
    one: dict[str, dict[str, Any]] = {
        "/jobs/{id}": {
            "get": _says("A job", 200, job, 404),
            "delete": _says("Cancel a job and remove everything of it", 204, None, 404),
        },
        "/jobs/{id}/events": {
            "get": _says("Its state as server-sent events, from now until it ends", 200, events, 404)
        },
        "/jobs/{id}/source": {"get": _says("The source; ranges are served", 200, video, 404, 422)},
        "/jobs/{id}/preview": {
            "get": _says("Its blurriest second: source on the left, restored on the right", 200, video, 404, 409)
        },
        "/jobs/{id}/result": {"get": _says("The result; `?download` for an attachment", 200, video, 404, 409)},
        "/jobs/{id}/cancel": {"post": _says("Stop it and keep what is finished", 200, job, 404)},
        "/jobs/{id}/resume": {"post": _says("Go on with a cancelled or failed job", 200, job, 400, 404)},
    }
    for operations in one.values():
        for operation in operations.values():
            operation["parameters"] = [{"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}]
    open_to_all = {
        "/": {"get": _says("The page", 200, html)},
        "/docs": {"get": _says("This description to read", 200, html)},
        "/openapi.json": {"get": _says("This description", 200, anything)},
        "/health": {"get": _says("Whether the server answers", 200, anything)},
    }
    for operations in open_to_all.values():
        operations["get"]["security"] = []
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "bsst",
            "version": version,
            "description": "Videos in, sharper videos out. Jobs run one after the other and survive a restart. Errors "
            'are `{"error": "expected ..., got ...; ..."}`.',
        },
        "security": [{"bearer": []}, {"query": []}],
        "paths": {
            **open_to_all,
            "/settings": {"get": _says("Plans, defaults and limits", 200, anything)},
            "/events": {"get": _says("The state of all jobs as server-sent events `jobs`", 200, events)},
            "/jobs": {"get": _says("All jobs, oldest first", 200, jobs), "post": create},
            **one,
        },
        "components": {
            "schemas": {"Job": JOB},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "query": {"type": "apiKey", "in": "query", "name": "token"},
            },
        },
    }


def docs_page(description: dict[str, Any]) -> str:
    """HTML of a description."""
    info = description["info"]
    head = "<meta charset='utf-8'><meta name='viewport' content='width=device-width'><style>" + STYLE + "</style>"
    body = "\n".join(_operations(description))
    title = f"{escape(info['title'])} {escape(info['version'])}: job service"
    return (
        f"<!doctype html><html lang='en'><head>{head}<title>{title}</title></head><body><h1>{title}</h1>"
        f"<p>{escape(info['description'])} <a href='/openapi.json'>openapi.json</a></p>{body}</body></html>"
    )


def _operations(description: dict[str, Any]) -> Iterator[str]:
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            yield f"<section><h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(operation['summary'])}</p>"
            if "description" in operation:
                yield f"<p>{escape(operation['description'])}</p>"
            rows = [(p["name"], p["in"], p["schema"], p.get("description")) for p in operation.get("parameters", ())]
            if rows:
                yield "<table><tr><th>parameter<th>in<th>type<th>default<th>meaning</tr>"
                for name, place, schema, meaning in rows:
                    kind = " | ".join(schema["enum"]) if "enum" in schema else schema["type"]
                    cells = (
                        name,
                        place,
                        kind,
                        str(schema.get("default", "")),
                        meaning or schema.get("description", ""),
                    )
                    yield "<tr>" + "".join(f"<td>{escape(cell)}" for cell in cells) + "</tr>"
                yield "</table>"
            answers = ", ".join(
                f"{status} {answer['description']}" for status, answer in operation["responses"].items()
            )
            yield f"<p class='answers'>{escape(answers)}</p></section>"


STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 56rem; margin: 2rem auto; padding: 0 1rem; }
section { border-top: 1px solid #8886; } h2 { font-size: 1.1rem; }
table { border-collapse: collapse; font-size: .9rem; } th, td { text-align: left; padding: 0 .8rem 0 0; }
.answers { font-size: .9rem; }
"""

WORDS = {
    200: "OK", 201: "added", 204: "removed", 400: "wrong request", 401: "wrong token", 403: FORBIDDEN,
    404: "no such job", 408: "the sender stalled", 409: "not done yet", 413: "over a limit",
    422: "the source cannot be read",
}  # fmt: skip


def _says(summary: str, good: int, content: dict[str, Any] | None, *bad: int) -> dict[str, Any]:
    answers: dict[str, Any] = {str(good): {"description": WORDS[good], **({"content": content} if content else {})}}
    answers |= {str(status): {"description": WORDS[status]} for status in (*bad, 401)}
    return {"summary": summary, "responses": answers}
