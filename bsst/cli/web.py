"""`bsst web` and `bsst serve`: a page for the user of this machine, a job service for programs."""

from __future__ import annotations

import ipaddress
import os
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import platformdirs

from bsst.cli.common import THREADS, Command, parse_bytes, require_packages
from bsst.errors import UsageError

if TYPE_CHECKING:
    from bsst.web.options import Limits

__all__ = ["serve", "web"]

WEB_EXAMPLES = """\b
Examples:
  bsst web                        opens the page in your browser
  bsst web --plan release.plan    offers another plan beside the packaged one
  bsst web --no-browser           prints the address only

"""
SERVE_EXAMPLES = """\b
Examples:
  bsst serve --token-file token.txt
  curl -H "Authorization: Bearer $TOKEN" -X POST -T clip.mp4 "http://127.0.0.1:8642/jobs?name=clip.mp4"
  curl -H "Authorization: Bearer $TOKEN" -N http://127.0.0.1:8642/jobs/ID/events
  curl -H "Authorization: Bearer $TOKEN" -o sharp.mp4 http://127.0.0.1:8642/jobs/ID/result

"""
STATUS = """\b
Exit status:
  0  stopped by Ctrl-C or kill; unfinished jobs go on at the next start
  1  internal error
  2  wrong usage
  4  the port is taken, or the folder is in use or cannot be written
  5  a plan cannot be used, or a package is missing
"""
SERVICE_PORT = 8642


def _options(command: Callable[..., None]) -> Callable[..., None]:
    """What both are started with."""
    plan = click.Path(path_type=Path, exists=True, dir_okay=False)
    options: list[tuple[str, dict[str, Any]]] = [
        ("--plan", {"type": plan, "multiple": True, "metavar": "FILE", "help": "Offer this plan too; repeatable."}),
        ("--folder", {"type": click.Path(path_type=Path, file_okay=False), "metavar": "DIR",
                      "help": "Where jobs and uploads live.  [default: among this user's data]"}),
        ("--max-upload", {"default": "20GB", "show_default": True, "metavar": "SIZE", "help": "Largest video."}),
        ("--max-disk", {"default": "200GB", "show_default": True, "metavar": "SIZE", "help": "Of all jobs."}),
        ("--allow-urls", {"is_flag": True, "help": "Fetch videos from public http(s) addresses that callers name."}),
        ("--threads", {"type": THREADS, "default": 0, "show_default": "all cores", "help": "Threads of the network."}),
        ("--debug", {"is_flag": True, "help": "Show tracebacks."}),
    ]  # fmt: skip
    for name, settings in reversed(options):
        command = click.option(name, **settings)(command)
    return command


@click.command(cls=Command, epilog=WEB_EXAMPLES + STATUS)
@click.option("--port", type=click.IntRange(0, 65535), default=0, show_default="a free one", help="Port to listen on.")
@click.option("--browser/--no-browser", default=True, help="Open the page, or print its address only.")
@_options
def web(
    port: int, browser: bool, plan: tuple[Path, ...], folder: Path | None, max_upload: str, max_disk: str,
    allow_urls: bool, threads: int, debug: bool,
) -> None:  # fmt: skip
    """Deblur videos on a page in your browser: drop a file, watch it go on, compare before and after, download.

    The page is for you alone: it listens on this computer only, and its address holds a token that is new at each
    start. Unfinished jobs go on when it is started again.
    """
    _require_web()
    from bsst.web.access import new_token
    from bsst.web.app import Settings
    from bsst.web.options import plans_by_name
    from bsst.web.server import serve

    token = new_token()

    def tell(port: int) -> None:
        address = f"http://127.0.0.1:{port}/#token={token}"
        click.echo(address)
        click.echo("Keep this running; Ctrl-C stops it, and what is unfinished goes on at the next start.", err=True)
        if browser:
            webbrowser.open(address)

    settings = Settings(
        token=token,
        plans=plans_by_name(plan),
        files=True,
        urls=allow_urls,
        threads=threads,
        limits=_limits(max_upload, max_disk),
    )
    _goodbye(serve(folder or _home("web"), settings, port=port, on_start=tell))


@click.command(cls=Command, epilog=SERVE_EXAMPLES + STATUS)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=SERVICE_PORT, show_default=True, help="0 for a free one."
)
@click.option("--token-file", metavar="FILE", type=click.Path(path_type=Path, exists=True, dir_okay=False),
              help="Holds the token of callers.  [default: $BSST_TOKEN, or a new one, which is printed]")  # fmt: skip
@click.option(
    "--allow-host", multiple=True, metavar="NAME", help="Another name callers reach this server by; repeat for more."
)
@_options
def serve(
    host: str, port: int, token_file: Path | None, allow_host: tuple[str, ...], plan: tuple[Path, ...],
    folder: Path | None, max_upload: str, max_disk: str, allow_urls: bool, threads: int, debug: bool,
) -> None:  # fmt: skip
    """Deblur videos for programs: POST a video, follow its events, GET the result. /docs describes every request.

    Callers send the token. Beyond this machine put a proxy with TLS in front: the service itself speaks plain HTTP.
    """
    _require_web()
    from bsst.web.access import checked_token, new_token, read_token
    from bsst.web.app import Settings
    from bsst.web.options import plans_by_name
    from bsst.web.server import serve as serve_jobs

    given = os.environ.get("BSST_TOKEN", "")
    if token_file is not None:
        token = read_token(token_file)
    else:
        token = checked_token(given, "$BSST_TOKEN") if given else new_token()

    def tell(port: int) -> None:
        click.echo(f"http://{f'[{host}]' if ':' in host else host}:{port}/docs")
        if token_file is None and not given:
            click.echo(f"token: {token}")

    hosts = ("127.0.0.1", "localhost", "[::1]", f"[{host}]" if ":" in host else host, *allow_host)
    settings = Settings(
        token=token,
        plans=plans_by_name(plan),
        hosts=tuple(name for name in hosts if not _unspecified(name)),
        urls=allow_urls,
        threads=threads,
        limits=_limits(max_upload, max_disk),
    )
    _goodbye(serve_jobs(folder or _home("serve"), settings, host=host, port=port, on_start=tell))


def _require_web() -> None:
    require_packages("starlette", "uvicorn", "httpcore2", extra="web", purpose="the page and the job service")


def _home(name: str) -> Path:
    return platformdirs.user_data_path("bsst") / name


def _limits(max_upload: str, max_disk: str) -> Limits:
    from bsst.web.options import Limits

    return Limits(upload_bytes=parse_bytes(max_upload, "--max-upload"), disk_bytes=parse_bytes(max_disk, "--max-disk"))


def _unspecified(host: str) -> bool:
    """Whether it stands for every address, as 0.0.0.0 does, and is the name of none."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_unspecified
    except ValueError:
        if host.startswith("*") and host != "*" and not host.startswith("*."):
            raise UsageError(f"expected a host name, * or *.example.org for --allow-host, got {host}") from None
        return False


def _goodbye(waiting: int) -> None:
    left = f"; {waiting} unfinished, go on at the next start" if waiting else ""
    click.echo(f"stopped{left}", err=True)
