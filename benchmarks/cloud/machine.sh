#!/usr/bin/env bash
# The ladder on this machine, which has a GPU: one that is rented, or one that stands here.
#
#   benchmarks/cloud/machine.sh                  set up and measure; rows land in benchmarks/results
#   benchmarks/cloud/machine.sh setup            make .venv, with the peers that can be installed
#   benchmarks/cloud/machine.sh run [FOLDER]     measure alone
#
# BUDGET_S=... is how many seconds measuring may take; the most telling rungs come first, and what
# was measured until then stays.
set -euo pipefail
cd "$(dirname "$0")/../.."

setup() {
    make setup
    .venv/bin/python -m pip install --quiet --quiet -r requirements/peers.txt ||
        echo "Not every peer could be installed: its rows will say that it was skipped." >&2
}

measure() {
    mkdir -p "$1"
    make gpu OUT="$1" ${BUDGET_S:+BUDGET_S="$BUDGET_S"}
}

case ${1:-all} in
all) setup && measure benchmarks/results ;;
setup) setup ;;
run) measure "${2:-benchmarks/results}" ;;
*)
    echo "machine.sh takes 'setup' or 'run [FOLDER]', not '$1'." >&2
    exit 2
    ;;
esac
