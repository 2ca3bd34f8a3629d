"""The completion scripts. Each asks `mcpg-ctl __complete` and does nothing else: see completion.py for the answers."""

_BASH = """\
# bash completion for mcpg-ctl; load it with: source <(mcpg-ctl completion bash)
_mcpg_ctl() {
    local name at word gap cur="" line="${COMP_LINE:0:COMP_POINT}" IFS=$'\\n'
    local -a words=()
    # bash breaks words at the : and = of a URL too: what has no space before it belongs to the word before it
    for ((at = 0; at <= COMP_CWORD; at++)); do
        word="${COMP_WORDS[at]}"
        gap="${line%%[![:space:]]*}"
        line="${line#"$gap"}"
        ((at == COMP_CWORD)) && word="$line"
        line="${line#"$word"}"
        if [ -z "$gap" ] && ((at)); then cur+="$word"; else words+=("$cur") && cur="$word"; fi
    done
    words+=("$cur")
    [[ $word == [:=]* ]] && word=""
    local typed="${cur%"$word"}" option=""
    COMPREPLY=()
    while IFS=$'\\t' read -r name _; do
        if [[ $name == *:path ]]; then
            [[ $cur == --*=* ]] && option="${cur%%=*}="
            while read -r name; do
                name="$option$name"
                COMPREPLY+=("${name#"$typed"}")
            done < <(compgen -f -- "${cur#"$option"}")
            compopt -o filenames 2>/dev/null
            return
        fi
        COMPREPLY+=("${name#"$typed"}")
    done < <("$1" __complete -- "${words[@]:2}" 2>/dev/null)
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
