package gate

// LinkHooksTo makes git's hooks links to the program that find returns.
func LinkHooksTo(find func() (path string, err error)) { hookProgram = find }
