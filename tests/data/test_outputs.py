"""Nothing is replaced but what is of the output's kind, holds nothing else, and is no input; found before the work."""

import os
import socket
from pathlib import Path

import anndata as ad
import pytest

from cellalign.data import files, outputs
from cellalign.errors import InputError, UsageError
from cellalign.model_directory import check_model_output

HDF5, PNG, PDF = b"\x89HDF\r\n\x1a\n" + bytes(2040), b"\x89PNG\r\n\x1a\n", b"%PDF-1.4"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder of files and directories of every kind, and the working directory."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    for name in ("kang.h5ad", "other.h5ad", "linked.h5ad"):
        Path(name).write_bytes(HDF5)
    for name, content in {
        "text.h5ad": b"text",
        "empty.h5ad": b"",
        "hdf5.csv": HDF5,
        "table.csv": b"a,b\n1,2\n",
        "other.png": PNG,
        "text.png": b"text",
        "other.pdf": PDF,
        "pdf.csv": PDF,
        "locked.csv": b"a\n",
    }.items():
        Path(name).write_bytes(content)
    os.chmod("locked.csv", 0o444)
    for name in ("model", "damaged", "holding", "foreign", "full", "apart", "protected"):
        Path(name).mkdir()
        Path(name, "model.yaml").write_text("format_version: 3\ncellalign: 0.1.0\n")
        Path(name, "weights.safetensors").write_bytes(b"w")
        Path(name, "history.csv").write_text("epoch\n")
    Path("damaged/weights.safetensors").unlink()
    Path("holding/kang.h5ad").write_bytes(HDF5)
    Path("full/notes").mkdir()
    Path("model/.DS_Store").write_bytes(b"")
    os.chmod("protected/weights.safetensors", 0o444)
    for name in outputs.MODEL_FILES:
        Path("foreign", name).unlink(missing_ok=True)  # not every model has each
    Path("foreign/model.yaml").write_text("of: another program\n")
    Path("empty").mkdir()
    for name, inner in (("store", "obs var X"), ("mixed", "obs var X"), ("images", "0 1")):
        for group in ("", *inner.split()):
            Path(f"{name}.zarr", group).mkdir()
            Path(f"{name}.zarr", group, ".zgroup").write_text('{"zarr_format": 2}')
    Path("mixed.zarr/notes.txt").write_text("mine")
    os.symlink("kang.h5ad", "link.h5ad"), os.symlink("model", "link"), os.symlink("/nowhere/x.h5ad", "dangling.h5ad")
    os.symlink("circle.h5ad", "circle.h5ad"), os.link("linked.h5ad", "hard.h5ad")
    os.mkfifo("pipe.csv")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket.csv")
        yield work


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


FILES = [  # a path, what is read, and what is said (nothing: it may be written)
    ("new.h5ad", [], None),
    ("other.h5ad", ["kang.h5ad"], None),
    ("empty.h5ad", [], None),
    ("text.h5ad", [], "exists and is no HDF5 file, so it is not replaced"),
    ("kang.h5ad", ["kang.h5ad"], "is the input"),
    ("./kang.h5ad", ["../work/kang.h5ad"], "is the input"),
    ("link.h5ad", ["kang.h5ad"], "is the input"),
    ("kang.h5ad", ["link.h5ad"], "is the input"),
    ("hard.h5ad", ["linked.h5ad"], "is the input"),
    ("dangling.h5ad", [], "there is no folder /nowhere; create it first (dangling.h5ad is a link)"),
    ("circle.h5ad", [], "its links lead in a circle"),
    ("table.csv", [], None),
    ("hdf5.csv", [], "is no text file"),
    ("pdf.csv", [], "is no text file"),
    ("other.png", [], None),
    ("text.png", [], "is no PNG picture"),
    ("other.pdf", [], None),
    ("locked.csv", [], "is write-protected"),
    ("model/history.csv", [], "lies in the folder of the model model"),
    ("model/model.yaml", [], "lies in the folder of the model model"),
    ("model/scores.csv", ["model"], "lies in the folder of the model model"),
    ("link/scores.csv", [], "lies in the folder of the model model"),
    ("full/notes/scores.csv", [], "lies in the folder of the model full"),
    ("foreign/scores.csv", [], None),
    ("foreign/model.yaml", [], None),
    ("model", [], "is a folder"),
    ("new.csv/", [], "names a folder"),
    ("pipe.csv", [], "is a pipe and no file"),
    ("socket.csv", [], "is a socket and no file"),
    ("/dev/null", [], "is a device and no file"),
    ("-", [], "is standard output, which is not written here"),
    ("", [], "is no name"),
    ("a\0b", [], "is no name"),
    ("nowhere/new.csv", [], "there is no folder"),
    ("table.csv/new.csv", [], "table.csv is no folder"),
    ("x" * 256 + ".csv", [], "the name is too long"),
    ("store.zarr/new.h5ad", ["store.zarr"], "lies in the input store.zarr"),
    ("store.zarr/new.h5ad", [], "lies in the zarr store store.zarr"),
]


@pytest.mark.parametrize(("path", "read", "says"), FILES)
def test_files(here, path, read, says):
    before = content(here)
    if says is None:
        files.check_output(path, True, read)
        with files.atomic_path(path, True) as fresh:
            fresh.write_text("new")
        assert Path(path).read_text() == "new"
        before.pop(str(here / path), None)
    else:
        with pytest.raises((UsageError, InputError)) as caught:
            files.check_output(path, True, read)
        assert says in str(caught.value) and "\n" not in str(caught.value)
    assert before.items() <= content(here).items()
    assert not [name for name in os.listdir() if "cellalign-" in name]


MODELS = [
    ("new", [], None),
    ("model", ["kang.h5ad"], None),
    ("model/", [], None),
    ("link", [], None),
    ("damaged", [], None),
    ("empty", [], None),
    ("holding", ["holding/kang.h5ad"], "holds the input holding/kang.h5ad"),
    ("holding", [], "holds kang.h5ad, which is no part of a model"),
    ("full", [], "holds notes, which is no part of a model"),
    ("foreign", [], "is no model directory"),
    ("store.zarr", [], "is no model directory"),
    ("protected", [], "is write-protected"),
    ("kang.h5ad", [], "is a file"),
    ("kang.h5ad", ["kang.h5ad"], "is the input"),
    ("/dev/null", [], "is a device"),
    ("model", ["model"], "is the input"),
    ("link", ["model"], "is the input"),
    ("store.zarr/new", ["store.zarr"], "lies in the input"),
    ("store.zarr/new", [], "lies in the zarr store store.zarr"),
    ("model/new", [], "lies in the folder of the model model"),
    (".", [], "is the folder this runs in, or holds it"),
    ("..", [], "is the folder this runs in, or holds it"),
    ("/", [], "is the folder this runs in, or holds it"),
    ("..", ["kang.h5ad"], "holds the input kang.h5ad"),
    ("", [], "is no name"),
    ("nowhere/new", [], "there is no folder"),
    ("x" * 256, [], "the name is too long"),
]


@pytest.mark.parametrize(("path", "read", "says"), MODELS)
def test_model_directories(here, path, read, says):
    before = content(here)
    if says is None:
        check_model_output(path, True, read)
        with files.atomic_directory(path, True, outputs.why_no_model) as fresh:
            (fresh / "model.yaml").write_text("new")
        assert os.listdir(path) == ["model.yaml"] and os.path.islink(path) == (path == "link")
        gone = str(Path(path).resolve())
        before = {name: was for name, was in before.items() if not name.startswith((gone, str(here / path)))}
    else:
        with pytest.raises((UsageError, InputError)) as caught:
            check_model_output(path, True, read)
        assert says in str(caught.value) and "\n" not in str(caught.value)
    assert before.items() <= content(here).items()
    assert not [name for name in os.listdir() if "cellalign-" in name]


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("store.zarr", None),
        ("new.zarr", None),
        ("mixed.zarr", "holds notes.txt, which is no part of a zarr store"),
        ("images.zarr", "is a zarr store of something else than cells"),
    ],
)
def test_stores(here, tiny, path, says):
    if says is None:
        files.check_cells_output(path, True, ["kang.h5ad"])
        files.write(tiny, path, force=True)
        assert ad.read_zarr(path).shape == tiny.shape
        return
    before = content(here)
    with pytest.raises(UsageError, match=says):
        files.check_cells_output(path, True)
    with pytest.raises(UsageError, match=says):
        files.write(tiny, path, force=True)
    assert content(here) == before


def test_what_comes_while_a_model_is_written_stays(here):
    with (
        pytest.raises(UsageError, match="holds mine"),
        files.atomic_directory("model", True, outputs.why_no_model) as fresh,
    ):
        (fresh / "model.yaml").write_text("new")
        Path("model/mine").write_text("mine")
    assert sorted(os.listdir("model")) == [".DS_Store", "history.csv", "mine", "model.yaml", "weights.safetensors"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_is_not_writable(here):
    os.chmod("empty", 0o555)
    with pytest.raises(InputError, match="work/empty is not writable"):
        files.check_output("empty/new.csv", False)


@pytest.mark.parametrize("code", ["EACCES", "EPERM", "EROFS"])
def test_what_the_system_refuses_is_found_before_the_work(here, monkeypatch, code):
    import errno

    def refuse(*_, **__):
        raise OSError(getattr(errno, code), os.strerror(getattr(errno, code)))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(InputError, match="cannot write new: the f.* is (not writable|read-only)"):
        check_model_output("new", False)


def test_outputs_of_one_command_lie_apart(here):
    files.check_apart("a.csv", None, "b.csv", "-", "model")
    for two, says in (
        (("a.csv", "./a.csv"), "two outputs are a.csv"),
        (("kang.h5ad", "link.h5ad"), "two outputs are kang.h5ad"),
        (("m", "m/a.h5ad"), "output m/a.h5ad lies in the output m"),
    ):
        with pytest.raises(UsageError, match=says):
            files.check_apart(*two)


def test_the_working_directory_may_be_gone(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(InputError, match="the working directory, which is gone"):
        files.check_output("new.csv", False)


def test_tables_do_not_bear_the_ending_of_cells(here):
    for name in ("kang.h5ad", "new.h5ad", "new.zarr", "new.png"):
        with pytest.raises(UsageError, match="a table is to be written"):
            files.check_table(name, True)
    files.check_table("new.txt", False)


@pytest.mark.parametrize("name, written", [("t.tsv", (".csv",)), ("t.json", (".csv",)), ("t.XLSX", (".csv", ".json"))])
def test_a_table_does_not_bear_the_ending_of_another(tmp_path, name, written):
    with pytest.raises(UsageError, match=f"a table is to be written, {' or '.join(written)}; choose another name"):
        files.check_table(tmp_path / name, False, written=written)
    for fits in ("t.csv", "t.txt", "t"):
        files.check_table(tmp_path / fits, False, written=written)
    files.check_table(tmp_path / "t.json", False, written=(".csv", ".json"))
