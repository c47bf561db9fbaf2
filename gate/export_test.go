package gate

// LinkHooksTo sets which program git's hooks are links to: find returns its path.
func LinkHooksTo(find func() (path string, err error)) { hookProgram = find }
