#!/bin/sh
# Passes when the program named on the command line makes ThreadSanitizer report a data race.
report=$(TSAN_OPTIONS="exitcode=66 halt_on_error=0" "$1" 2>&1)
status=$?
case "$report" in
*"WARNING: ThreadSanitizer: data race"*) [ "$status" -eq 66 ] && exit 0 ;;
esac
echo "no data race was reported (status $status): the detector is blind" >&2
echo "$report" >&2
exit 1
