# SPDX-License-Identifier: GPL-3.0-or-later
# Made by packaging/completions/generate.py from the commands' parsers.
function __domwardd_at -d 'Whether the line so far leads to these commands, and no further'
    set -l path ''
    for word in (commandline -opc)[2..-1]
        set -l longer (string trim -- "$path $word")
        contains -- $longer ''; and set path $longer
    end
    test "$path" = "$argv"
end
complete -c domwardd -f
complete -c domwardd -n '__domwardd_at' -s h -l help -d 'show this help message and exit'
complete -c domwardd -n '__domwardd_at' -l version -d 'show program\'s version number and exit'
complete -c domwardd -n '__domwardd_at' -l config -r -F -d 'the settings (default: /etc/domward/domward.toml); conf.d/*.toml beside it are read after it'
complete -c domwardd -n '__domwardd_at' -l check-config -d 'check the settings, and end'
