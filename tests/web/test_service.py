"""The job service through an ASGI client; a fake process restores."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from bsst.errors import OutputError, PlanError, UsageError
from bsst.runtime.network.network import DEFAULT_PLAN
from bsst.web.app import Settings, create_app
from bsst.web.openapi import openapi
from bsst.web.options import Limits, plans_by_name
from bsst.web.store import JobStore

TOKEN = "a token of the tests"
VIDEO = b"\0\0\0 ftypisom"
"""What the fake process takes for a video, of which it restores a step at a time."""
BEARER = {"Authorization": f"Bearer {TOKEN}"}
FAKE = (sys.executable, "-I", "-S", str(Path(__file__).with_name("fake_child.py")))


@contextmanager
def service(folder: Path, **settings: Any) -> Iterator[TestClient]:
    given: dict[str, Any] = {"token": TOKEN, "plans": {"packaged": None}, "files": True} | settings
    with JobStore(folder) as store:
        app = create_app(store, Settings(**given), command=FAKE)
        with TestClient(app, base_url="http://127.0.0.1:8642", headers=BEARER) as client:
            yield client


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    with service(tmp_path / "jobs") as client:
        yield client


def upload(client: TestClient, body: bytes, name: str = "holiday.mp4", **options: Any) -> dict[str, Any]:
    answer = client.post("/jobs", params={"name": name, **options}, content=body)
    assert answer.status_code == 201, answer.text
    return answer.json()


def reached(client: TestClient, id: str, *states: str) -> dict[str, Any]:
    for _ in range(500):
        job = client.get(f"/jobs/{id}").json()
        if job["state"] in states:
            return job
        time.sleep(0.02)
    raise AssertionError(f"job stays {job}")


def error_of(answer: Any) -> str:
    message = answer.json()["error"]
    assert message.startswith("expected ")
    assert "\n" not in message
    return message


def test_an_upload_becomes_a_result_that_is_downloaded_whole_and_in_ranges(client: TestClient) -> None:
    job = upload(client, b"finish", "../ur/laub <1>.mp4", crf=7, start="1:01.5")
    assert (job["name"], job["options"]["crf"], job["start_seconds"]) == ("laub 1.mp4", 7, 61.5)
    done = reached(client, job["id"], "done")
    assert done["summary"]["frames"] == 12
    assert (done["warnings"], done["info"]) == (["a warning"], ["decoder fake, crf 7"])
    whole = client.get(f"/jobs/{job['id']}/result", params={"download": ""})
    assert whole.content == b"0123456789" * 10
    assert "laub%201.deblurred.mp4" in whole.headers["content-disposition"]
    part = client.get(f"/jobs/{job['id']}/result", headers={"Range": "bytes=10-14"})
    assert (part.status_code, part.content) == (206, b"01234")
    assert client.get(f"/jobs/{job['id']}/source").content == b"finish"
    assert client.delete(f"/jobs/{job['id']}").status_code == 204
    assert client.get("/jobs").json() == []


def test_a_preview_can_be_watched_while_its_job_goes_on_and_is_not_made_again(
    client: TestClient, tmp_path: Path
) -> None:
    job = upload(client, VIDEO, preview="true")
    for _ in range(500):
        if (now := client.get(f"/jobs/{job['id']}").json())["previewed"]:
            break
        time.sleep(0.02)
    assert (now["state"], now["previewed"]) == ("running", True)
    assert client.get(f"/jobs/{job['id']}/preview").content == VIDEO
    preview = tmp_path / "jobs" / f"job-{job['id']}" / "preview.mp4"
    client.post(f"/jobs/{job['id']}/cancel")
    made = preview.stat().st_mtime_ns
    client.post(f"/jobs/{job['id']}/resume")
    reached(client, job["id"], "done")
    assert preview.stat().st_mtime_ns == made
    without = upload(client, b"finish")
    assert "one has none yet" in error_of(client.get(f"/jobs/{without['id']}/preview"))
    assert (client.get(f"/jobs/{without['id']}/preview")).status_code == 409


def test_events_of_a_job_go_from_its_state_now_to_its_end(client: TestClient) -> None:
    job = upload(client, b"repair")
    with client.stream("GET", f"/jobs/{job['id']}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        text = "".join(stream.iter_text())
    events = re.findall(r"event: (\w+)\ndata: (.*)\n\n", text)
    last = json.loads(events[-1][1])
    assert (events[-1][0], last["exit_status"], last["summary"]["repaired"]) == ("done", 8, 1)


def test_a_cancelled_job_keeps_what_it_finished_and_resumes_there(client: TestClient, tmp_path: Path) -> None:
    job = upload(client, b"wait")
    reached(client, job["id"], "running")
    part = tmp_path / "jobs" / f"job-{job['id']}" / "segment"
    for _ in range(200):
        if part.exists():
            break
        time.sleep(0.02)
    cancelled = client.post(f"/jobs/{job['id']}/cancel").json()
    assert (cancelled["state"], cancelled["exit_status"], part.exists()) == ("cancelled", 130, True)
    assert "409" not in error_of(client.get(f"/jobs/{job['id']}/result"))
    assert client.post(f"/jobs/{job['id']}/resume").json()["state"] in ("queued", "running")
    reached(client, job["id"], "done")
    assert "nothing to resume" in error_of(client.post(f"/jobs/{job['id']}/resume"))


def test_jobs_run_one_at_a_time_in_order_and_a_restart_goes_on_with_them(tmp_path: Path) -> None:
    folder = tmp_path / "jobs"
    with service(folder) as client:
        first, second, third = (upload(client, body) for body in (b"wait", b"finish", b"finish"))
        reached(client, first["id"], "running")
        jobs = client.get("/jobs").json()
        assert [(job["state"], job["jobs_before"]) for job in jobs] == [("running", 0), ("queued", 1), ("queued", 2)]
        client.delete(f"/jobs/{second['id']}")
        with pytest.raises(OutputError, match="no other server"), JobStore(folder):
            pass
    (folder / "job-0123456789abcdef").mkdir()  # an upload that a crash cut off
    (folder / "job-0123456789abcdef" / "arriving").write_bytes(b"half")
    with service(folder) as client:
        reached(client, third["id"], "done")
        assert [job["id"] for job in client.get("/jobs").json()] == [first["id"], third["id"]]
        assert client.get(f"/jobs/{first['id']}").json()["state"] == "done"
    assert not (folder / "job-0123456789abcdef").exists()


@pytest.mark.parametrize(("body", "words"), [(b"secret", "got a secret"), (b"die", "ended with status 11")])
def test_a_job_that_fails_says_why_and_the_next_one_runs(client: TestClient, body: bytes, words: str) -> None:
    job = upload(client, body)
    assert words in reached(client, job["id"], "failed")["error"]
    reached(client, upload(client, b"finish")["id"], "done")


def test_a_named_file_is_handed_out_only_once_it_proved_to_be_a_video(client: TestClient, tmp_path: Path) -> None:
    secret, video = tmp_path / "key.mp4", tmp_path / "film.mp4"
    secret.write_bytes(b"secret")
    video.write_bytes(b"finish")
    jobs = [client.post("/jobs", json={"file": str(path), "crf": 3}).json() for path in (secret, video)]
    reached(client, jobs[0]["id"], "failed")
    assert "opened as a video" in error_of(client.get(f"/jobs/{jobs[0]['id']}/source"))
    reached(client, jobs[1]["id"], "done")
    assert client.get(f"/jobs/{jobs[1]['id']}/source").content == b"finish"
    client.delete(f"/jobs/{jobs[1]['id']}")
    assert video.read_bytes() == b"finish"


def test_named_files_and_urls_are_refused_where_the_server_does_not_allow_them(tmp_path: Path) -> None:
    with service(tmp_path / "jobs", files=False) as client:
        for body in ({"file": "/etc/passwd"}, {"url": "https://example.org/a.mp4"}):
            answer = client.post("/jobs", json=body)
            assert answer.status_code == 403
            error_of(answer)
        assert list((tmp_path / "jobs").glob("job-*")) == []


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"name": "a.mp4", "crf": "99"}, "crf of 0 to 51, got 99"),
        ({"name": "a.mp4", "crf": "1.5"}, "a whole number for crf, got '1.5'"),
        ({"name": "a.mp4", "lossless": "maybe"}, "true or false for lossless"),
        ({"name": "a.mp4", "plan": "../../etc/passwd"}, "a plan among packaged"),
        ({"name": "a.mp4", "format": "exe"}, "a format among source, mp4"),
        ({"name": "a.mp4", "colour": "red"}, "got colour"),
        ({"name": "a.mp4", "start": "5", "end": "0:04"}, "a part that ends after it starts"),
        ({"name": "a.mp4", "end": "soon"}, "expected a time"),
        ({"name": "a.mp4", "preview": "true", "end": "3"}, "a preview of a whole video"),
        ({"name": "a.mp4", "preview": "1s"}, "true or false for preview"),
        ({}, "the name of a video"),
        ({"name": "../.."}, "the name of a video"),
    ],
)
def test_wrong_options_are_one_line_and_leave_nothing(client: TestClient, query: dict[str, str], words: str) -> None:
    answer = client.post("/jobs", params=query, content=b"finish")
    assert answer.status_code == 400
    assert words in error_of(answer)
    assert client.get("/jobs").json() == []


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"[1]", "a JSON object"),
        (b"{", "a JSON object"),
        (b"[" * 50000, "a JSON object"),
        (b'{"file": "/a", "url": "https://a/b"}', "got neither or both"),
        (b'{"file": "relative.mp4"}', "got a relative name"),
        (b'{"file": "/"}', "got a folder"),
        (b'{"file": "/dev/zero"}', "got a pipe or device"),
        (b'{"file": "/a\\u0000b"}', "expected"),
        (b'{"file": "/a", "crf": true}', "a whole number for crf"),
        (b'{"file": "/a", "crf": 1e400}', "a whole number for crf"),
    ],
)
def test_a_wrong_json_body_is_one_line(client: TestClient, body: bytes, words: str) -> None:
    answer = client.post("/jobs", content=body, headers={"Content-Type": "application/json; charset=utf-8"})
    assert answer.status_code == 400
    assert words in error_of(answer)


@pytest.mark.parametrize("given", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Bearer {TOKEN} "},
                                   {"Authorization": "Bearer \xff"}])  # fmt: skip
def test_nothing_but_page_and_descriptions_is_told_without_the_token(client: TestClient, given: dict[str, str]) -> None:
    del client.headers["Authorization"]
    headers = [(name.encode(), value.encode("latin-1")) for name, value in given.items()]
    for path, operations in openapi("0")["paths"].items():
        for method, operation in operations.items():
            answer = client.request(method, path.replace("{id}", "0" * 16), headers=headers)
            assert answer.status_code == (200 if operation.get("security") == [] else 401), path
    assert client.get("/jobs", params={"token": "wrong"}).status_code == 401
    assert client.get("/jobs", params={"token": TOKEN}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8642", "127.0.0.1.evil.example", ""])
def test_another_host_name_is_refused_as_a_page_that_lies_about_its_address_sends_it(
    client: TestClient, host: str
) -> None:
    assert client.get("/", headers={"Host": host}).status_code == 400
    assert client.get("/", headers={"Host": "localhost:8642"}).status_code == 200


@pytest.mark.parametrize(
    "path",
    ["/jobs/../../etc/passwd", "/jobs/..%2f..%2fetc%2fpasswd/result", "/jobs/%2e%2e/result", "/page.html",
     "/jobs/....//result", "//etc/passwd", "/static/../app.py"],
)  # fmt: skip
def test_no_path_leads_out_of_the_jobs(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    error_of(answer)


def test_a_full_service_takes_no_more(tmp_path: Path) -> None:
    with service(tmp_path / "jobs", limits=Limits(upload_bytes=1000, disk_bytes=3000, jobs=2)) as client:
        answer = client.post("/jobs", params={"name": "a.mp4"}, content=b"finish".ljust(1001))
        assert (answer.status_code, "at most 1000 bytes" in error_of(answer)) == (413, True)
        stream = iter([b"finish".ljust(600), b" " * 600])
        assert client.post("/jobs", params={"name": "a.mp4"}, content=stream).status_code == 413
        reached(client, upload(client, b"finish".ljust(900))["id"], "done", "failed")
        upload(client, b"finish")
        assert "fewer than 2 jobs" in error_of(client.post("/jobs", params={"name": "a.mp4"}, content=b"finish"))
        assert len(list((tmp_path / "jobs").glob("job-*"))) == 2


def test_a_plan_that_the_restarted_server_lacks_fails_its_job_alone(tmp_path: Path) -> None:
    with service(tmp_path / "jobs", plans={"packaged": None, "mine": tmp_path / "mine.plan"}) as client:
        upload(client, b"wait")
        job = upload(client, b"finish", plan="mine")
    with service(tmp_path / "jobs") as client:
        assert "expected the plan mine" in reached(client, job["id"], "failed")["error"]


def test_plans_are_checked_before_anybody_chooses_them(tmp_path: Path) -> None:
    broken = tmp_path / "broken.plan"
    broken.write_bytes(b"no plan")
    with pytest.raises(PlanError):
        plans_by_name([broken])
    with pytest.raises(UsageError, match="got edge twice"):
        plans_by_name([DEFAULT_PLAN, DEFAULT_PLAN])


def test_the_description_and_the_routes_are_the_same(tmp_path: Path) -> None:
    with JobStore(tmp_path / "jobs") as store:
        app = create_app(store, Settings(token=TOKEN, plans={"packaged": None}), command=FAKE)
    served = {(route.path, method.lower()) for route in app.routes for method in route.methods - {"HEAD"}}
    described = {(path, method) for path, operations in openapi("0")["paths"].items() for method in operations}
    assert served == described


def test_every_answer_forbids_scripts_that_are_not_of_the_page(client: TestClient) -> None:
    for path in ("/", "/jobs", "/docs", "/nothing"):
        policy = client.get(path).headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
    html = client.get("/").text
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", html)
    assert not re.search(r"\son\w+=", html)
