# SPDX-License-Identifier: GPL-3.0-or-later
# Made by packaging/completions/generate.py from the commands' parsers.
_domwardd() {
    local word path='' index=1 cur=${COMP_WORDS[COMP_CWORD]} value='' options=''
    while ((index < COMP_CWORD)); do
        word=${COMP_WORDS[index]}
        case "$path $word" in
        esac
        index=$((index + 1))
    done
    case "$path ${COMP_WORDS[COMP_CWORD - 1]}" in
    " --config") value='files' ;;
    esac
    if [ -z "$value" ]; then
        case "$path" in
        "") options='-h --help --version --config --check-config' value='' ;;
        esac
    fi
    COMPREPLY=()
    if [[ $cur == -* && -n $options ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$options" -- "$cur")
        return
    fi
    for word in $value; do
        case $word in
        files) mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -f -- "$cur") ;;
        folders) mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -d -- "$cur") ;;
        operations)
            mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(
                compgen -W "$(domwardd list --all 2>/dev/null | awk 'NR > 1 { print $1 }')" -- "$cur"
            ) ;;
        text) ;;
        *) [[ $word == "$cur"* ]] && COMPREPLY+=("$word") ;;
        esac
    done
}
complete -o filenames -F _domwardd domwardd
