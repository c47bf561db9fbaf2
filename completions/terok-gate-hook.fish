# fish completion for terok-gate-hook and terok-gate, which know their commands and flags
# themselves.

function __terok_gate --argument-names program
    set -l words (commandline --tokenize --current-process --cut-at-cursor)[2..]
    # After -- the program would take the request for an argument.
    contains -- -- $words; and return
    set -l current (commandline --current-token --cut-at-cursor)
    string match --quiet -- '-*' $current; and set --append words (string replace -- -- - $current)
    # $0 is how the program knows a shell that shows descriptions.
    env 0=zsh $program $words --generate-bash-completion </dev/null 2>/dev/null | string replace : \t
end

function __terok_gate_wants_file
    contains -- (commandline --tokenize --current-process --cut-at-cursor)[-1] --token-file --log-file --env-dir --gate-socket --repos --control --metrics
end

for program in terok-gate-hook terok-gate
    complete --command $program --no-files --arguments "(__terok_gate $program)"
    complete --command $program --condition __terok_gate_wants_file --force-files
end
