# SPDX-License-Identifier: Apache-2.0
# fish completion of sparkctl. What there is, complete.sh says.

function __sparkctl_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    for line in (@LIBEXECDIR@/sparkctl-complete $words "$current")
        if test "$line" = @files
            __fish_complete_path "$current"
        else
            echo $line
        end
    end
end

complete -c sparkctl -f -a '(__sparkctl_complete)'
