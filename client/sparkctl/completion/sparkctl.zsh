#compdef sparkctl
# SPDX-License-Identifier: Apache-2.0
# zsh completion of sparkctl. What there is, complete.sh says.

local line value
local -a found

for line in "${(@f)$(@LIBEXECDIR@/sparkctl-complete "$words[1]" "${(@)words[2,CURRENT]}")}"; do
        if [[ $line == @files ]]; then
                _files
        elif [[ -n $line ]]; then
                value=${line%%$'\t'*}
                found+=("${value//:/\\:}:${line#*$'\t'}")
        fi
done
(( ! $#found )) || _describe -V sparkctl found
