#!/usr/bin/env bash
# Everything that a GPU is needed for, in one script of at most seven minutes.
#
#   bench/gpu.sh pack      where there is a package index: wheels into .gpu/ (less than 60 MiB), to be carried along
#   bench/gpu.sh           on the GPU machine (torch 2.6 or later and torchvision installed): tests, then bench/gpu.py
#   bench/gpu.sh --quick   the same, shortened, on any machine; without a GPU the steps run on the CPU
#
# Results: gpu.json and gpu.md in $OUT, or in bench/results/ where OUT is not set. PYTHON chooses the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
OURS="kernel remind crumb butd clear"
# Distributions that a machine with torch may lack, and what they are imported as.
NEEDED="attrs:attr pluggy:pluggy pyyaml:yaml rich:rich markdown-it-py:markdown_it mdurl:mdurl pygments:pygments
  pytest:pytest iniconfig:iniconfig packaging:packaging pillow:PIL python-dateutil:dateutil six:six fsspec:fsspec
  safetensors:safetensors threadpoolctl:threadpoolctl xxhash:xxhash h5py:h5py"

pack() {
  rm -rf .gpu && mkdir -p .gpu
  [ -x .uv/bin/uv ] || make .uv/bin/uv
  .uv/bin/uv build --quiet --all-packages --wheel --out-dir .gpu
  rm -f .gpu/cl_plugin_recall-*.whl .gpu/.gitignore
  for pair in $NEEDED; do
    .uv/bin/pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --dest .gpu \
      --python-version "${TARGET_PYTHON:-3.12}" --implementation cp \
      --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 "${pair%%:*}"
  done
  du -sh .gpu
}

if [ "${1:-}" = pack ]; then pack; exit; fi

place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
if [ -d .gpu ]; then
  wheels=(.gpu/cl_*.whl)
  for pair in $NEEDED; do
    "$PYTHON" -c "import ${pair##*:}" 2>/dev/null && continue
    name=${pair%%:*}
    wheels+=(.gpu/"${name//-/_}"-*.whl)
  done
  "$PYTHON" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --target "$place" "${wheels[@]}"
  export PYTHONPATH="$place${PYTHONPATH:+:$PYTHONPATH}"
fi
export CLK_CACHE="$place/cache" PYTHONUNBUFFERED=1
device=cuda
"$PYTHON" -c "import sys, torch; sys.exit(not torch.cuda.is_available())" || device=cpu
[ $device = cuda ] || [ "${1:-}" = --quick ] || { echo "no GPU here: bench/gpu.sh --quick"; exit 2; }
failed=0
for name in $OURS; do
  [ "$name" = kernel ] && tests=tests/torch || tests=plugins/$name/tests
  grep -rlq "mark.gpu" "$tests" --include='*.py' || continue
  "$PYTHON" -m pytest -q -p no:cacheprovider -W default -m gpu $(grep -rl "mark.gpu" "$tests" --include='*.py') || [ $? -eq 5 ] || failed=1
done
"$PYTHON" bench/gpu.py --device $device --output "${OUT:-bench/results}" "$@"
exit $failed
