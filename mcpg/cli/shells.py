"""The completion scripts. Each asks `mcpg-ctl __complete` and does nothing else: see completion.py for the answers."""

_BASH = """\
# bash completion for mcpg-ctl; load it with: source <(mcpg-ctl completion bash)
_mcpg_ctl() {
    local name IFS=$'\\n'
    local cur="${COMP_WORDS[COMP_CWORD]}"
    [ "$cur" = "=" ] && cur=""
    COMPREPLY=()
    while IFS=$'\\t' read -r name _; do
        if [ "$name" = ":path" ]; then
            COMPREPLY=($(compgen -f -- "$cur"))
            compopt -o filenames 2>/dev/null
            return
        fi
        COMPREPLY+=("$name")
    done < <("$1" __complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -F _mcpg_ctl mcpg-ctl
"""

_ZSH = """\
#compdef mcpg-ctl
# zsh completion for mcpg-ctl; source it, or put it on fpath as _mcpg-ctl
_mcpg_ctl() {
    local name about
    local -a found
    while IFS=$'\\t' read -r name about; do
        if [[ $name == *:path ]]; then
            [[ $name == *=:path ]] && compset -P '*='
            _files
            return
        fi
        found+=("${name//:/\\\\:}${about:+:$about}")
    done < <("${words[1]}" __complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)
    (( $#found )) && _describe -t mcpg-ctl mcpg-ctl found
}
if [ "$funcstack[1]" = "_mcpg-ctl" ]; then _mcpg_ctl "$@"; else compdef _mcpg_ctl mcpg-ctl; fi
"""

_FISH = """\
# fish completion for mcpg-ctl; load it with: mcpg-ctl completion fish | source
function __mcpg_ctl_complete
    set -l words (commandline -opc) (commandline -ct)
    set -l program $words[1]
    set -e words[1]
    for line in ($program __complete -- $words 2>/dev/null)
        if string match -q '*:path' -- $line
            set -l option (string match -r '^--[^=]*=' -- (commandline -ct))
            for path in (__fish_complete_path (string replace -- "$option" '' (commandline -ct)))
                printf '%s%s\n' "$option" $path
            end
        else
            printf '%s\\n' $line
        end
    end
end
complete -c mcpg-ctl -f -a '(__mcpg_ctl_complete)'
"""

SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
