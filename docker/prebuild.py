"""`CC=gcc python docker/prebuild.py PREFIX`: compile what triton would compile at run time, for docker/prebuilt-cc.

Triton needs one C module, `cuda_utils`, before its first kernel, and compiles it from a source that its wheel brings.
That source is the same on every machine, so one compilation serves all. Writes PREFIX/bin/prebuilt-cc and
PREFIX/share/prebuilt-cc; with CC=PREFIX/bin/prebuilt-cc triton then works without a compiler.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from triton.backends.nvidia import driver
from triton.runtime import build

SOURCE = Path(driver.dirname, "driver.c")


def main(prefix: Path) -> None:
    """Compile the module and lay it beside the program that hands it out."""
    store = prefix / "share" / "prebuilt-cc"
    store.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        # The real libcuda comes with the driver of the machine that has the GPU. The linker notes its name where
        # it defines something that the module uses.
        names = sorted(set(re.findall(r"\bcu[A-Z]\w+(?=\()", SOURCE.read_text())))
        stub = "".join(f"void {name}(void) {{}}\n" for name in names)
        command = [
            "gcc",
            "-shared",
            "-nostdlib",
            "-Wl,-soname,libcuda.so.1",
            "-o",
            f"{scratch}/libcuda.so.1",
            "-xc",
            "-",
        ]
        subprocess.run(command, input=stub, text=True, check=True)
        directories = [driver.libdevice_dir, scratch]
        # Triton's own function: the same flags as at run time.
        made = build._build("cuda_utils", str(SOURCE), scratch, directories, driver.include_dirs, driver.libraries, [])
        shutil.copy(made, store / "cuda_utils.so")
    needed = subprocess.run(["readelf", "-d", store / "cuda_utils.so"], capture_output=True, text=True, check=True)
    if "[libcuda.so.1]" not in needed.stdout:
        sys.exit("prebuild: the linker dropped libcuda.so.1 as unneeded; the module would not find it at run time")
    (store / "cuda_utils.sha256").write_text(hashlib.sha256(SOURCE.read_bytes()).hexdigest() + "\n")
    program = prefix / "bin" / "prebuilt-cc"
    program.parent.mkdir(exist_ok=True)
    shutil.copy(Path(__file__).with_name("prebuilt-cc"), program)
    program.chmod(0o755)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
