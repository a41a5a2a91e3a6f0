"""What `bsst export-triton` writes and refuses; the configuration is read by the published protobuf."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Any, get_args

import pytest
from click.testing import CliRunner, Result
from google.protobuf import text_format

from bsst import cli
from bsst.plan.archive import open_plan
from bsst.plan.manifest import Target
from bsst.runtime.network.network import DEFAULT_PLAN
from bsst.triton_server import repository
from bsst.triton_server.repository import MODEL, model_config


def export(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, ["export-triton", *map(str, arguments)], prog_name="bsst")


def parsed(text: str) -> Any:
    """Text -> `inference.ModelConfig`; unknown fields and values are errors.

    The file is loaded alone, since its package imports grpc, which wants an older protobuf than others here.
    """
    package = importlib.metadata.distribution("tritonclient")
    spec = importlib.util.spec_from_file_location(
        "model_config_pb2", package.locate_file("tritonclient/grpc/model_config_pb2.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return text_format.Parse(text, module.ModelConfig())


@pytest.mark.filterwarnings("ignore:Protobuf gencode")
@pytest.mark.parametrize("target", get_args(Target))
def test_the_configuration_is_one_of_the_published_protobuf(target: Target) -> None:
    config = parsed(model_config("bsst", target))
    assert (config.name, config.backend, config.max_batch_size) == ("bsst", "python", 0)
    (given,), (taken,) = config.input, config.output
    assert (given.name, taken.name) == ("FRAMES", "SHARP")
    for tensor in (given, taken):
        assert (tensor.DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number[tensor.data_type].name) == (
            "TYPE_UINT8"
        )
        assert list(tensor.dims) == [-1, -1, -1, 3]
    (group,) = config.instance_group
    nvidia = target in ("ort-cuda", "ort-tensorrt", "tensorrt", "tensorrt-rtx")
    assert (group.kind, list(group.gpus)) == ((group.KIND_GPU, [0]) if nvidia else (group.KIND_CPU, []))
    assert config.parameters["threads"].string_value == "0"
    with pytest.raises(text_format.ParseError):
        parsed(model_config("bsst", target) + "batch: 3")


def test_a_model_holds_its_plan_and_stands_beside_others(tmp_path: Path) -> None:
    models = tmp_path / "new" / "models"
    for name in ("bsst", "edge-2.1"):
        result = export(DEFAULT_PLAN, models, "--name", name)
        assert (result.exit_code, result.stdout) == (0, f"{models / name}\n"), result.output
    files = sorted(str(path.relative_to(models)) for path in models.rglob("*") if path.is_file())
    assert files == [f"{name}/{file}" for name in ("bsst", "edge-2.1")
                     for file in ("1/model.plan", "1/model.py", "config.pbtxt")]  # fmt: skip
    copy = open_plan(models / "bsst" / "1" / "model.plan")
    assert copy.manifest == open_plan(DEFAULT_PLAN).manifest
    assert (models / "bsst" / "1" / "model.py").read_bytes() == MODEL.read_bytes()
    assert 'name: "edge-2.1"' in (models / "edge-2.1" / "config.pbtxt").read_text()


def test_what_cannot_be_written_or_served_is_refused_in_one_line(tmp_path: Path) -> None:
    models, file = tmp_path / "models", tmp_path / "file"
    file.write_bytes(b"no plan")
    (models / "bsst").mkdir(parents=True)
    (models / "bsst" / "notes.txt").write_text("mine")
    for status, words, *arguments in (
        (4, "expected no model at", DEFAULT_PLAN, models),
        (4, "expected a folder or nothing at", DEFAULT_PLAN, file),
        (5, "expected a plan", file, models, "--name", "other"),
        (5, "expected a plan", tmp_path / "none.plan", models, "--name", "other"),
        (2, "expected a name of letters", DEFAULT_PLAN, models, "--name", "../other"),
        (2, "expected a name of letters", DEFAULT_PLAN, models, "--name", 'a"b'),
    ):
        result = export(*arguments)
        assert (result.exit_code, result.stdout) == (status, ""), result.output
        assert result.stderr.startswith("error: ")
        assert words in result.stderr
        assert result.stderr.count("\n") == 1
    assert sorted(path.name for path in models.rglob("*")) == ["bsst", "notes.txt"]
    assert file.read_bytes() == b"no plan"


def test_a_full_disk_leaves_no_part_of_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(repository.shutil, "copyfileobj", fail)
    result = export(DEFAULT_PLAN, tmp_path / "models")
    assert result.exit_code == 4
    assert "a full disk" in result.stderr
    assert list((tmp_path / "models").iterdir()) == []
