"""What is installed: the wheel carries all that lies in the package, and importing it is cheap."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, unmask; assert 'torch' not in sys.modules; assert dir(unmask) == sorted(unmask.__all__)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_is_there() -> None:
    import unmask

    assert all(getattr(unmask, name) is not None for name in unmask.__all__)
    with pytest.raises(AttributeError, match="no attribute 'fil'"):
        _ = unmask.fil


@pytest.mark.slow
def test_the_wheel_carries_weights_recipes_and_types(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    carried = set(zipfile.ZipFile(wheel).namelist())
    package = ROOT / "src" / "unmask"
    wanted = {
        path.relative_to(ROOT / "src").as_posix()
        for path in package.rglob("*")
        if path.is_file() and path.suffix != ".pyc" and not any(part.startswith(".") for part in path.parts[-2:])
    }
    assert wanted <= carried, f"left behind: {sorted(wanted - carried)}"
    assert "unmask/py.typed" in carried
    assert any(name.endswith("licenses/LICENSE") for name in carried)
