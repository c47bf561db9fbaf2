# fish completion for terok-gate, which knows its commands and flags itself.

function __terok_gate
    set -l words (commandline --tokenize --current-process --cut-at-cursor)[2..]
    # After -- the program would take the request for an argument.
    contains -- -- $words; and return
    set -l current (commandline --current-token --cut-at-cursor)
    string match --quiet -- '-*' $current; and set --append words (string replace -- -- - $current)
    # $0 is how the program knows a shell that shows descriptions.
    env 0=zsh terok-gate $words --generate-bash-completion </dev/null 2>/dev/null | string replace : \t
end

function __terok_gate_wants_file
    contains -- (commandline --tokenize --current-process --cut-at-cursor)[-1] --token-file --log-file --env-dir --gate-socket --projects --repos --desks --control --metrics --tls-cert --tls-key --tls-ca --vouch-file
end

complete --command terok-gate --no-files --arguments "(__terok_gate)"
complete --command terok-gate --condition __terok_gate_wants_file --force-files
