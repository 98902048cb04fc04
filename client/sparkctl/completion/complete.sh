#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# What may stand at the end of a command line of sparkctl, for the completions of the shells beside this file:
#
#     complete.sh SPARKCTL WORD... CURRENT
#
# prints lines of a value, a tab and a description; a line @files means names of files. Verbs, options and what these take come
# from sparkctl's own --help, names of models and sessions from the service, which is asked quietly and for a second at most.
set -u

program=$1
shift
verb="" sub="" socket="" previous="" current="" state=verb i=0
for word; do
        i=$((i + 1))
        current=$word
        [ "$i" -lt $# ] || break
        case $previous in
        -S|--socket)
                socket=$word
                previous=""
                continue ;;
        esac
        previous=$word
        case $state$word in
        command*) continue ;;
        *--) state="command" ;; # what follows is somebody else's command line
        verb-*) ;;
        verb*) verb=$word state=sub ;;
        sub[!-]*) sub=$word state=rest ;;
        *) state=rest ;;
        esac
done

help() {
        "$program" "$@" --help 2>/dev/null </dev/null
}

ask() {
        timeout 1 "$program" ${socket:+-S "$socket"} "$@" 2>/dev/null </dev/null
}

# Of lines "value<tab>description" those that go on from what is there; $1 (may be left out) stands in front of all.
offer() {
        while read -r line; do
                case $line in
                "$current"*) printf '%s%s\n' "${1-}" "$line" ;;
                "@files") [ -n "${1-}" ] || echo "$line" ;;
                esac
        done
}

# The text's verbs or subverbs.
verbs() {
        printf '%s\n' "$text" | sed -n 's/^  \([a-z][a-z-]*\)  *\(.*\)/\1	\2/p'
}

# "letter|name|argument|description" of each option.
options() {
        printf '%s\n' "$text" | sed -n \
                -e 's/^  -\(.\), --\([a-z0-9-]*\) \([A-Z][A-Z]*\)  *\(.*\)/\1|\2|\3|\4/p; t' \
                -e 's/^  -\(.\), --\([a-z0-9-]*\)  *\(.*\)/\1|\2||\3/p; t' \
                -e 's/^      --\([a-z0-9-]*\) \([A-Z][A-Z]*\)  *\(.*\)/|\1|\2|\3/p; t' \
                -e 's/^      --\([a-z0-9-]*\)  *\(.*\)/|\1||\2/p'
}

# Arguments of this name.
values() {
        case $1 in
        M|MODEL|NAME) ask models | sed -n 's/^[* ] \([^ ][^ ]*\)  *\(.*\)/\1	\2/p' ;;
        ID) ask session list | sed -n 's/^\([0-9a-f]\{32\}\)  *\(.*\)/\1	\2/p' ;;
        JOB) ask jobs | sed -n 's/^ *\([0-9][0-9]*\)  *\(.*\)/\1	\2/p' ;;
        FILE|PATH|DIRECTORY) echo "@files" ;;
        esac
}

# What the option named $1 takes, whose argument is called $2.
option_values() {
        case $1 in
        priority) printf '%s\n' background normal interactive ;;
        policy) printf '%s\n' wait busy ;;
        sort) printf '%s\n' tokens/s priority tokens age user ;;
        name) ;; # a new one
        *) values "$2" ;;
        esac
}

# The name and the argument of the option that the word $1 is, where it takes one.
find_argument() {
        options | while IFS="|" read -r letter name argument _; do
                case $1 in
                "-${letter:-/}"|"--$name") [ -z "$argument" ] || echo "$name $argument" ;;
                esac
        done
}

# What the usage says behind the options.
arguments() {
        printf '%s\n' "$text" | sed -n '1s/^Usage: sparkctl//p' |
                sed 's/\[[^]]*\]//g; s/--[a-z-]* [A-Z][A-Z]*//g; s/[|.]/ /g' | tr -s ' ' '\n' | sort -u
}

if [ -z "$verb" ]; then
        text=$(help)
else
        text=$(help "$verb")
        case $text in
        *" SUBVERB --help"*) [ -z "$sub" ] || text=$(help "$verb" "$sub") ;;
        *) [ "$state" != sub ] || state=rest ;;
        esac
fi

if [ "$state" = command ]; then
        echo "@files"
        exit 0
fi
found=$(find_argument "$previous")
case $current in
--*=*)
        found=$(find_argument "${current%%=*}")
        front=${current%%=*}=
        current=${current#*=}
        # shellcheck disable=SC2086
        [ -z "$found" ] || option_values $found | offer "$front"
        ;;
-*) options | while IFS="|" read -r letter name _ about; do printf '%s\t%s\n' "--$name" "$about"; done | offer ;;
*)
        if [ -n "$found" ]; then
                # shellcheck disable=SC2086
                option_values $found
        elif [ "$state" != rest ]; then
                verbs
        else
                for argument in $(arguments); do
                        values "$argument"
                done
        fi | offer | uniq
        ;;
esac
