#!/bin/sh
# A pipe: events come in on standard input, JSON lines go out; here only critical alerts, and the summary.
#
#     sh examples/pipe.sh < examples/data/incident.kvlog.gz
kvstream run - --json --min-severity critical | while read -r line; do
    case $line in
        '{"type":"alert"'*) echo "wake someone: $line" ;;
        '{"type":"summary"'*) echo "at the end: $line" | cut -c1-120 ;;
    esac
done
