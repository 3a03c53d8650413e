#!/usr/bin/env bash
# Rent a GPU for each name, measure there, bring the rows to benchmarks/results, give it back.
#
#   benchmarks/cloud/launch.sh l4 h100           names are those of the .yaml files beside this one
#   benchmarks/cloud/launch.sh --cloud gcp l4    options go to `sky launch`
#
# Needs SkyPilot with a cloud that `sky check` finds (pip install "sdaccel[cloud]"), and rsync. The
# rows that there are come back after a failure too, and the machine is given back in any case.
set -uo pipefail
cd "$(dirname "$0")/../.."
results=benchmarks/results

fail() {
    echo "$1" >&2
    exit 2
}

options=() names=()
while [ $# -gt 0 ]; do
    case $1 in
    --*) options+=("$1" "${2:?$1 needs a value}") && shift 2 ;;
    *) names+=("$1") && shift ;;
    esac
done
known=$(basename -s .yaml benchmarks/cloud/*.yaml | tr '\n' ' ')
[ ${#names[@]} -gt 0 ] || fail "Name a GPU: ${known% }."
for name in "${names[@]}"; do
    [ -f "benchmarks/cloud/$name.yaml" ] || fail "There is no '$name': the GPUs are ${known% }."
done
for tool in sky rsync; do
    command -v "$tool" >/dev/null ||
        fail "$tool is missing: pip install \"sdaccel[cloud]\" brings SkyPilot; rsync is a package."
done

cluster=
give_back() { if [ -n "$cluster" ]; then sky down --yes "$cluster"; fi; }
trap 'give_back; exit 130' INT TERM

failed=()
for name in "${names[@]}"; do
    cluster=sdaccel-$name
    # --down with an idle time gives the machine back even where this script could not.
    sky launch --yes --cluster "$cluster" --idle-minutes-to-autostop 30 --down \
        ${options[@]+"${options[@]}"} "benchmarks/cloud/$name.yaml" || failed+=("$name")
    rsync --archive "$cluster:sky_workdir/cloud-results/" "$results/" || failed+=("$name")
    give_back
    cluster=
done
if [ ${#failed[@]} -gt 0 ]; then
    echo "Not all went well with: ${failed[*]}; the rows that came back are in $results." >&2
    exit 1
fi
echo "The rows are in $results: sdaccel bench report shows them."
