#!/usr/bin/env bash
# On a machine with a GPU, in about ten minutes: the tests that need one, then a conversion at full size to four kinds
# of students. Writes the table for docs/benchmarks.md.
#
#     benchmarks/gpu.sh TEACHER [DATA] [OUTPUT, gpu.md by default]
set -uo pipefail
cd "$(dirname "$0")/.."
teacher=${1:?the teacher\'s run} data=${2:-} output=${3:-gpu.md} python=${PYTHON:-.venv/bin/python}
"$python" -m pytest -m cuda -q; tests=$?
"$python" -m benchmarks.gpu --teacher "$teacher" --output "$output" ${data:+--data "$data"}; table=$?
[ "$tests" = 0 ] || echo "Some tests failed, see above." >&2
exit $((tests || table))
