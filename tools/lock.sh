#!/usr/bin/env bash
# Writes requirements/*.txt: what pip resolves today from pyproject.toml, every version pinned.
# Done in throw-away environments, so that nothing installed by hand slips into a lock.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON=${PYTHON:-python3}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# deps GROUP...: the requirement lines of pyproject.toml ("runtime" or an extra)
deps() {
    "$PYTHON" - "$@" <<'PY'
import sys, tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
for group in sys.argv[1:]:
    print(*(project["dependencies"] if group == "runtime" else project["optional-dependencies"][group]), sep="\n")
PY
}
freeze() { # freeze VENV FILE TITLE
    { printf '# %s\n# Made by `make lock`; do not edit by hand.\n' "$3"; "$1/bin/python" -m pip freeze --quiet --exclude setuptools --exclude wheel; } >"$tmp/out"
    mv "$tmp/out" "$2"
    echo "lock: $2 ($(grep -c == "$2") packages)"
}

"$PYTHON" -m venv "$tmp/main"
deps runtime >"$tmp/runtime.in"
"$tmp/main/bin/python" -m pip install --quiet -r "$tmp/runtime.in"
freeze "$tmp/main" requirements/runtime.txt "What Virga runs on."
deps dev >"$tmp/dev.in"
"$tmp/main/bin/python" -m pip install --quiet -c requirements/runtime.txt -r "$tmp/dev.in"
freeze "$tmp/main" requirements/dev.txt "Runtime, test tools and the OpenStack clients that judge us."

deps libvirt >"$tmp/libvirt.in"
{ printf '# The libvirt binding; compiled here, see tools/setup.sh.\n'; cat "$tmp/libvirt.in"; } >requirements/libvirt.txt

"$PYTHON" -m venv "$tmp/tempest"
"$tmp/tempest/bin/python" -m pip install --quiet "tempest==${TEMPEST_VERSION:-47.0.0}"
freeze "$tmp/tempest" requirements/tempest.txt "OpenStack's own API tests, in an environment of their own."
