# SPDX-License-Identifier: Apache-2.0
# bash completion of sparkctl. What there is, complete.sh says.

_sparkctl() {
        local word line current=${COMP_WORDS[COMP_CWORD]} words=() i

        # "--name=value" comes as three words
        for ((i = 1; i <= COMP_CWORD; i++)); do
                word=${COMP_WORDS[i]}
                [[ $word == "=" ]] && word=""
                [[ $i -lt $COMP_CWORD && -z $word ]] || words+=("$word")
        done
        COMPREPLY=()
        while IFS= read -r line; do
                if [[ $line == "@files" ]]; then
                        compopt -o filenames 2>/dev/null
                        while IFS= read -r word; do
                                COMPREPLY+=("$word")
                        done < <(compgen -f -- "${current#=}")
                else
                        COMPREPLY+=("${line%%$'\t'*}")
                fi
        done < <(@LIBEXECDIR@/sparkctl-complete "${COMP_WORDS[0]}" "${words[@]}")
}

complete -F _sparkctl sparkctl
