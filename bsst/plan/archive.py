"""The plan file: one uncompressed ZIP that holds `manifest.json` and one engine per stage.

    plan = open_plan(Path("edge.plan"))             # everything checked, nothing deserialised
    require(plan.manifest, targets=["cpu"])         # does it fit this machine?
    engine = plan.member("encode")                  # bytes, hashed again as they are read

Members are stored back to back in sorted order with fixed dates, the manifest last, so equal content gives equal
bytes and any gap, overlap, compression or stray byte is refused. Standard library only: the runtime imports this.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import struct
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, BinaryIO

from bsst.errors import PlanError
from bsst.files import atomic_file, what_is_at
from bsst.plan.manifest import Compiler, Manifest, Shape, StageSpec, Tail, TensorSpec, require
from bsst.plan.manifest_json import content_key, manifest_from_json, manifest_to_json
from bsst.text import shortened

__all__ = ["Compiler", "Manifest", "Plan", "StageSpec", "TensorSpec", "open_plan", "require", "write_plan"]

MANIFEST_MEMBER = "manifest.json"
MANIFEST_LIMIT = 8 << 20
CHUNK = 1 << 20

_LOCAL_HEADER = 30
_END_RECORD = struct.Struct("<4s4H2LH")
_DAMAGED = "the file is damaged or incomplete: copy or export the plan again"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """An opened plan whose members have all been verified once."""

    path: Path
    """File the plan was opened from."""
    manifest: Manifest
    """Checked manifest."""
    offsets: Mapping[str, int]
    """Byte offset in the file of the data of each member."""
    tails: Mapping[str, tuple[int, Tail]] = field(default_factory=dict)
    """By stage: where in the file what follows its member begins, and what it is; see `shaped`."""

    @property
    def fallback(self) -> Plan | None:
        """The plan of target `cpu` and precision fp32 inside this one, for what is not finite; None without.

        It is this file under another manifest, whose content key means nothing.
        """
        if not self.manifest.float32:
            return None
        manifest = dataclasses.replace(
            self.manifest,
            target="cpu",
            precision="fp32",
            compute_capabilities=(),
            plugins=(),
            stages=self.manifest.float32,
            float32=(),
            shapes=(),
        )
        return dataclasses.replace(self, manifest=manifest)

    def with_tile(self, tile: tuple[int, int]) -> Plan:
        """The plan in the shape with tiles (h, w), one of its own."""
        shape = next((shape for shape in self.manifest.shapes if shape.tile == tile), None)
        return self if shape is None else self.shaped(shape)

    def shaped(self, shape: Shape) -> Plan:
        """The plan in another of its shapes: this file under another manifest."""
        base = self.manifest.stages
        tails = {
            stage.name: (self.offsets[stage.member] + stage.size - tail.size, tail)
            for stage, tail in zip(base, shape.tails, strict=True)
        }
        return dataclasses.replace(self, manifest=self.manifest.shaped(shape), tails=tails)

    def member(self, stage: str) -> bytes:
        """Engine of `stage`, held in memory once and verified as read.

        Raises:
            PlanError: no such stage, or the file changed since it was opened.
        """
        spec = self.manifest.stage(stage)
        try:
            with self.path.open("rb") as file:
                file.seek(self.offsets[spec.member])
                data = file.read(spec.size)
                start, tail = self.tails.get(stage, (0, None))
                file.seek(start)
                rest = b"" if tail is None else file.read(tail.size)
        except OSError as error:
            raise PlanError(
                f"{self.path}: expected a readable plan, got {error}; keep the file until the run ends"
            ) from error
        changed = tail is not None and hashlib.sha256(rest).hexdigest() != tail.sha256
        if changed or hashlib.sha256(data).hexdigest() != spec.sha256:
            raise PlanError(
                f"{self.path}: expected member {spec.member} with SHA-256 {spec.sha256}, got other bytes than when the "
                "plan was opened; do not replace a plan while it runs"
            )
        return data + rest if rest else data


def write_plan(path: Path, manifest: Manifest, members: Mapping[str, Path | bytes]) -> Manifest:
    """Write a plan atomically: `path` holds the whole plan or what it held before.

    Args:
        path: plan to write; an existing file is replaced.
        manifest: digests, sizes and content key may be empty; they are filled here.
        members: content of each `StageSpec.member` of `Manifest.members`, by its name; files are streamed.

    Returns:
        The manifest as `open_plan` reads it.

    Raises:
        PlanError: members and manifest do not fit together, or a value is impossible.
        OutputError: the file cannot be written (no such directory, disk full); nothing is left behind.
    """
    expected, got = {stage.member for stage in manifest.members}, set(members)
    if expected != got:
        raise PlanError(
            f"expected members {sorted(expected)}, got missing {sorted(expected - got)} and unknown "
            f"{sorted(got - expected)}; give one member per stage"
        )
    with atomic_file(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        written = {name: _add(archive, name, members[name]) for name in sorted(members)}

        def filled(stages: tuple[StageSpec, ...]) -> tuple[StageSpec, ...]:
            return tuple(
                dataclasses.replace(stage, sha256=written[stage.member][0], size=written[stage.member][1])
                for stage in stages
            )

        manifest = dataclasses.replace(
            manifest,
            stages=filled(manifest.stages),
            float32=filled(manifest.float32),
            shapes=tuple(dataclasses.replace(shape, stages=filled(shape.stages)) for shape in manifest.shapes),
            content_key="",
        )
        text = manifest_to_json(dataclasses.replace(manifest, content_key=content_key(manifest)))
        _add(archive, MANIFEST_MEMBER, text)
        return manifest_from_json(text, f"{path}: manifest")


def open_plan(path: Path) -> Plan:
    """Open a plan and check all of it: container, manifest, size and SHA-256 of every member.

    Members are hashed in chunks; nothing is deserialised and no member is held in memory.

    Raises:
        PlanError: missing, not a plan, truncated, damaged, of another format version, or with members that the
            manifest does not describe.
    """
    if (found := what_is_at(path)) not in ("a file", "nothing"):  # a pipe without a writer never opens
        raise PlanError(f"{path}: expected a plan file, got {found}; give the name of a plan")
    try:
        with path.open("rb") as file:
            _check_end(path, file)
            with zipfile.ZipFile(file) as archive:
                offsets = _check_layout(path, archive)
                manifest = _read_manifest(path, archive)
                _check_members(path, archive, manifest)
    except FileNotFoundError as error:
        raise PlanError(f"{path}: expected a plan, got no such file; make one with bsst export") from error
    # zipfile raises all of these on hostile headers (unknown version, encryption, undecodable names, bad offsets).
    except (
        zipfile.BadZipFile,
        OSError,
        ValueError,
        NotImplementedError,
        RuntimeError,
        EOFError,
        struct.error,
    ) as error:
        raise PlanError(f"{path}: expected a whole plan file, got {error}; {_DAMAGED}") from error
    return Plan(path=path, manifest=manifest, offsets=offsets)


def _add(archive: zipfile.ZipFile, name: str, source: Path | bytes) -> tuple[str, int]:
    """Append a member; returns its (SHA-256, size)."""
    info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    info.create_system, info.external_attr = 3, 0o644 << 16
    info.file_size = source.stat().st_size if isinstance(source, Path) else len(source)
    digest = hashlib.sha256()
    with archive.open(info, "w") as out:
        for chunk in _chunks(source):
            digest.update(chunk)
            out.write(chunk)
    return digest.hexdigest(), info.file_size


def _chunks(source: Path | bytes) -> Iterator[memoryview]:
    if isinstance(source, Path):
        with source.open("rb") as file:
            while chunk := file.read(CHUNK):
                yield memoryview(chunk)
    else:
        view = memoryview(source)
        for start in range(0, len(view), CHUNK):
            yield view[start : start + CHUNK]


def _check_end(path: Path, file: BinaryIO) -> None:
    """A plan ends with the end record of the archive: no comment, nothing appended, nothing cut off."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _END_RECORD.size))
    tail = file.read(_END_RECORD.size)
    if len(tail) < _END_RECORD.size or not tail.startswith(b"PK\x05\x06") or not tail.endswith(b"\0\0"):
        raise PlanError(
            f"{path}: expected a plan that ends with a ZIP end record, got {size} bytes that do not; {_DAMAGED}"
        )
    file.seek(0)


def _check_layout(path: Path, archive: zipfile.ZipFile) -> dict[str, int]:
    """Members must be stored, of plain names, and lie back to back from byte 0; returns their data offsets."""
    offsets: dict[str, int] = {}
    position = 0
    for info in archive.infolist():
        name = info.filename
        if "/" in name or "\\" in name or name.startswith(".") or "\0" in info.orig_filename:
            raise PlanError(f"{path}: expected plain member names, got {shortened(repr(name))}; do not use this file")
        if name in offsets:
            raise PlanError(f"{path}: expected each member once, got {name!r} twice; do not use this file")
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & 1:
            raise PlanError(
                f"{path}: expected {name} stored as it is, got it compressed or encrypted "
                f"({info.compress_size} of {info.file_size} bytes); export the plan again instead of repacking it"
            )
        offsets[name] = position + _header_size(archive.fp, position)
        if info.header_offset != position:
            raise PlanError(f"{path}: expected {name} at byte {position}, got {info.header_offset}; {_DAMAGED}")
        position = offsets[name] + info.file_size
    if archive.start_dir != position:
        raise PlanError(f"{path}: expected the directory at byte {position}, got {archive.start_dir}; {_DAMAGED}")
    return offsets


def _header_size(file: IO[bytes] | None, position: int) -> int:
    if file is None:
        raise ValueError("closed archive")
    file.seek(position)
    header = file.read(_LOCAL_HEADER)
    if len(header) != _LOCAL_HEADER or not header.startswith(b"PK\x03\x04"):
        raise ValueError(f"no member header at byte {position}")
    name_size, extra_size = struct.unpack("<26x2H", header)
    return _LOCAL_HEADER + int(name_size) + int(extra_size)


def _read_manifest(path: Path, archive: zipfile.ZipFile) -> Manifest:
    if MANIFEST_MEMBER not in archive.namelist():
        raise PlanError(
            f"{path}: expected a member {MANIFEST_MEMBER}, got a ZIP without it; give a plan made by bsst export"
        )
    size = archive.getinfo(MANIFEST_MEMBER).file_size
    if size > MANIFEST_LIMIT:
        raise PlanError(
            f"{path}: expected a manifest of at most {MANIFEST_LIMIT} bytes, got {size}; do not use this file"
        )
    return manifest_from_json(archive.read(MANIFEST_MEMBER), f"{path}: manifest")


def _check_members(path: Path, archive: zipfile.ZipFile, manifest: Manifest) -> None:
    expected = {stage.member for stage in manifest.members} | {MANIFEST_MEMBER}
    got = set(archive.namelist())
    if expected != got:
        raise PlanError(
            f"{path}: expected exactly the members its manifest lists, got missing "
            f"{shortened(sorted(expected - got))}, unknown {shortened(sorted(got - expected))}; do not use this file"
        )
    for stage in manifest.members:
        size = archive.getinfo(stage.member).file_size
        if size != stage.size:
            raise PlanError(f"{path}: expected {stage.member} of {stage.size} bytes, got {size}; {_DAMAGED}")
        digest = hashlib.sha256()
        with archive.open(stage.member) as member:
            while chunk := member.read(CHUNK):
                digest.update(chunk)
        if digest.hexdigest() != stage.sha256:
            raise PlanError(
                f"{path}: expected {stage.member} with SHA-256 {stage.sha256}, got {digest.hexdigest()}; {_DAMAGED}"
            )
