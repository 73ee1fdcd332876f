# SPDX-License-Identifier: GPL-3.0-or-later
# Made by packaging/completions/generate.py from the commands' parsers.
_domward() {
    local word path='' index=1 cur=${COMP_WORDS[COMP_CWORD]} value='' options=''
    while ((index < COMP_CWORD)); do
        word=${COMP_WORDS[index]}
        case "$path $word" in
        " run") path="run" ;;
        " inspect") path="inspect" ;;
        " list") path="list" ;;
        " show") path="show" ;;
        " wait") path="wait" ;;
        " attach") path="attach" ;;
        " cancel") path="cancel" ;;
        " log") path="log" ;;
        " watch") path="watch" ;;
        " metrics") path="metrics" ;;
        " create") path="create" ;;
        " destroy") path="destroy" ;;
        " doctor") path="doctor" ;;
        " audit") path="audit" ;;
        "audit verify") path="audit verify" ;;
        "audit show") path="audit show" ;;
        "audit report") path="audit report" ;;
        "audit resume") path="audit resume" ;;
        "audit sign") path="audit sign" ;;
        esac
        index=$((index + 1))
    done
    case "$path ${COMP_WORDS[COMP_CWORD - 1]}" in
    "run --format") value='raw qcow2' ;;
    "run --timeout") value='text' ;;
    "run --audit-log") value='files' ;;
    "run --label") value='text' ;;
    "run --socket") value='files' ;;
    "run --optional-layer") value='text' ;;
    "run --bootloader") value='files' ;;
    "run --bootloader-arg") value='text' ;;
    "run --kernel") value='files' ;;
    "run --ramdisk") value='files' ;;
    "run --offset") value='text' ;;
    "run --entry") value='text' ;;
    "run --args") value='text' ;;
    "run --output-dir") value='folders' ;;
    "run --log-dir") value='folders' ;;
    "inspect --format") value='raw qcow2' ;;
    "inspect --timeout") value='text' ;;
    "inspect --audit-log") value='files' ;;
    "inspect --label") value='text' ;;
    "inspect --socket") value='files' ;;
    "inspect --optional-layer") value='text' ;;
    "list --socket") value='files' ;;
    "show --socket") value='files' ;;
    "wait --socket") value='files' ;;
    "wait --output-dir") value='folders' ;;
    "attach --socket") value='files' ;;
    "cancel --socket") value='files' ;;
    "log --socket") value='files' ;;
    "watch --socket") value='files' ;;
    "metrics --socket") value='files' ;;
    "create --socket") value='files' ;;
    "destroy --socket") value='files' ;;
    "doctor --optional-layer") value='text' ;;
    "audit verify --checkpoints") value='files' ;;
    "audit verify --signed") value='files' ;;
    "audit verify --allowed-signers") value='files' ;;
    "audit verify --signer") value='text' ;;
    "audit show --since") value='text' ;;
    "audit show --until") value='text' ;;
    "audit show --domain") value='text' ;;
    "audit show --actor") value='text' ;;
    "audit show --outcome") value='text' ;;
    "audit show --event") value='text' ;;
    "audit show --operation") value='operations' ;;
    "audit report --output") value='files' ;;
    "audit report --since") value='text' ;;
    "audit report --until") value='text' ;;
    "audit report --checkpoints") value='files' ;;
    "audit sign --key") value='files' ;;
    "audit sign --output") value='files' ;;
    esac
    if [ -z "$value" ]; then
        case "$path" in
        "") options='-h --help --version' value='run inspect list show wait attach cancel log watch metrics create destroy doctor audit' ;;
        "run") options='-h --help --format --timeout --json --audit-log --no-audit --daemon --detach --label --socket --optional-layer --bootloader --bootloader-arg --kernel --ramdisk --offset --entry --args --output-dir --interactive --log-dir' value='files' ;;
        "inspect") options='-h --help --format --timeout --json --audit-log --no-audit --daemon --detach --label --socket --optional-layer' value='files' ;;
        "list") options='-h --help --socket --all --json' value='' ;;
        "show") options='-h --help --socket --json' value='operations' ;;
        "wait") options='-h --help --socket --output-dir --json' value='operations' ;;
        "attach") options='-h --help --socket' value='operations' ;;
        "cancel") options='-h --help --socket' value='operations' ;;
        "log") options='-h --help --socket --raw' value='operations files' ;;
        "watch") options='-h --help --socket' value='' ;;
        "metrics") options='-h --help --socket' value='' ;;
        "create") options='-h --help --socket -c --attach --json' value='files' ;;
        "destroy") options='-h --help --socket' value='operations' ;;
        "doctor") options='-h --help --optional-layer --json' value='' ;;
        "audit") options='-h --help' value='verify show report resume sign' ;;
        "audit verify") options='-h --help --checkpoints --signed --allowed-signers --signer --json' value='files' ;;
        "audit show") options='-h --help --since --until --domain --actor --outcome --event --operation --json --ocsf --cef' value='files' ;;
        "audit report") options='-h --help --output --since --until --checkpoints' value='files' ;;
        "audit resume") options='-h --help' value='files' ;;
        "audit sign") options='-h --help --key --output' value='files' ;;
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
                compgen -W "$(domward list --all 2>/dev/null | awk 'NR > 1 { print $1 }')" -- "$cur"
            ) ;;
        text) ;;
        *) [[ $word == "$cur"* ]] && COMPREPLY+=("$word") ;;
        esac
    done
}
complete -o filenames -F _domward domward
