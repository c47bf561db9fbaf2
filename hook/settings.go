// Defines the settings of a stage with their defaults, the time limits of the stage and of its hook
// definition, and the form of the settings on a command line. Package engines writes such a command
// line into a hook definition. The stage reads the command line, and install, doctor and others read
// it back from the definition. Only this file knows the form of the command line.

package hook

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"terok-gate-hook/internal/control"
	"terok-gate-hook/store"
)

// Settings are the settings of a stage. The zero value of a field means its default.
type Settings struct {
	Tokens        store.File // default path [store.TokenFilePath]
	LogFile       string     // default that of package trail
	AllowProjects []string   // shell patterns (path.Match); if there are any, a project must match one
	AllowReads    []string   // shell patterns of further projects, which containers of other projects may read
	EnvMode       string     // of the container's files that hold a secret; default 0400
	GateURL       string     // the gate's URL as the container reaches it; empty if not known
	EnvDir        string     // inject on the host, into this directory, even if there is a container process
	Identity      *string    // NAME <EMAIL> of the container's commits; default [defaultIdentity]; empty for none

	Access string   // "read", "append", or "write", the default
	Push   []string // patterns ([store.Limits]); if there are any, a pushed ref must match one
	Hashed bool     // the token file holds the SHA-256 of each token instead of the token

	// GateSocket is the control socket of a gate that serves containers in their own
	// networks. It is empty for a gate elsewhere.
	GateSocket    string
	GateListen    string        // where the gate listens in the container's network; default [GateListen]
	GateTimeout   time.Duration // for the gate's answer; new tries begin only in the first half of this time; default two seconds; not a flag
	WithholdToken bool          // from the container: the gate recognizes the container by its network

	// Services are services of the host, each of the form that [ParseService] reads. AllowServices
	// say which projects may use which services, each in the form PATTERN=NAME[,NAME]. Services need
	// a gate socket.
	Services      []string
	AllowServices []string

	// For containers that ask for a device (CDI). Project is the device's project. With TaskID,
	// a container without annotation terok.task has the first digits of its id as its task.
	// With Annotated, a container without annotations for project and task is refused.
	Project   string
	TaskID    bool
	Annotated bool

	// Projects is the path of a file with the addresses that projects have at forges, or empty. If git in
	// a container is given such an address, git uses the gate instead.
	Projects string
}

// Names and places.
const (
	ProjectAnnotation = "terok.project"
	TaskAnnotation    = "terok.task"
	EnvModeAnnotation = "terok.env-mode"
	AccessAnnotation  = "terok.access"
	PushAnnotation    = "terok.push"
	ReadAnnotation    = "terok.read"  // other projects, to fetch from
	WriteAnnotation   = "terok.write" // other projects, to push to as well
	MountPath         = "/run/terok"  // the directory in the container

	ServicesAnnotation = "terok.services" // of the host

	// GateListen is where the gate listens by default.
	GateListen      = "127.0.0.1:9418"
	defaultEnvMode  = "0400"
	defaultIdentity = "{task} <{task}@{project}.invalid>"
)

// Stages are the commands that a container engine calls.
var Stages = []string{"precreate", "prestart", "createRuntime", "poststop"}

// Flag is a setting on a command line.
type Flag struct {
	Name    string
	Usage   string // a word in back quotes names the value
	Default string // for people to read
	Path    bool   // the value names a file or a directory
	stages  []string
	field   func(*Settings) any // *string, **string, *[]string, *time.Duration or *bool
}

// Flags are all flags, in the order in which [Settings.Args] writes them.
var Flags = []Flag{
	{Name: "token-file", Usage: "the token file `F`; default: the path that terok-gate path prints; required in a user namespace", Path: true,
		field: func(s *Settings) any { return &s.Tokens.Path }},
	{Name: "log-file", Usage: "append events to the file `F`, as JSON lines; default: /var/log/terok-gate/trail.log for root, else terok-gate/trail.log in ${XDG_STATE_HOME:-~/.local/state}; none in a user namespace", Path: true,
		field: func(s *Settings) any { return &s.LogFile }},
	{Name: "lock-timeout", Usage: "wait for the lock of the token file for this `time`, then give up", Default: store.DefaultLockTimeout.String(),
		field: func(s *Settings) any { return &s.Tokens.LockTimeout }},

	{Name: "allow-project", Usage: "admit only projects that match a shell `pattern`; repeatable",
		stages: []string{"precreate", "prestart"}, field: func(s *Settings) any { return &s.AllowProjects }},
	{Name: "allow-read", Usage: "with --allow-project, also admit projects that match a shell `pattern`, only for reading by containers of other projects; repeatable",
		stages: []string{"precreate", "prestart"}, field: func(s *Settings) any { return &s.AllowReads }},
	{Name: "gate-url", Usage: "the gate's `URL` as the container reaches it",
		stages: []string{"precreate", "prestart"}, field: func(s *Settings) any { return &s.GateURL }},
	{Name: "gate-socket", Usage: "the gate's control socket `F`: the gate serves the container in the container's own network", Path: true,
		stages: []string{"precreate", "prestart", "poststop", "attach"}, field: func(s *Settings) any { return &s.GateSocket }},
	{Name: "gate-listen", Usage: "with --gate-socket, where the gate listens in the container's network: `127.0.0.1:port`", Default: GateListen,
		stages: []string{"precreate", "prestart"}, field: func(s *Settings) any { return &s.GateListen }},
	{Name: "withhold-token", Usage: "with --gate-socket, do not give the container its token: the gate knows the container by its network",
		stages: []string{"precreate", "prestart"}, field: func(s *Settings) any { return &s.WithholdToken }},
	{Name: "service", Usage: "with --gate-socket, a `SERVICE` of the host, NAME=[PORT:]IP:PORT or NAME=PORT:unix:PATH, for containers that ask for it; repeatable",
		stages: []string{"precreate", "prestart", "forward"}, field: func(s *Settings) any { return &s.Services }},
	{Name: "allow-service", Usage: "the services that projects may ask for, as `PATTERN`=NAME[,NAME]; repeatable; default: none",
		stages: []string{"precreate", "prestart"}, field: func(s *Settings) any { return &s.AllowServices }},
	{Name: "env-mode", Usage: "`mode` of gate.env: 0400, 0440 or 0444", Default: defaultEnvMode,
		stages: []string{"prestart"}, field: func(s *Settings) any { return &s.EnvMode }},
	{Name: "identity", Usage: "`NAME <EMAIL>` for commits if git has no other, with {project}, {task} and {container}; '' for none", Default: defaultIdentity,
		stages: []string{"precreate", "prestart"}, field: func(s *Settings) any { return &s.Identity }},
	{Name: "access", Usage: "what the container may do: `read`, append or write; append allows pushes that neither delete nor force", Default: store.AccessWrite,
		stages: []string{"prestart"}, field: func(s *Settings) any { return &s.Access }},
	{Name: "push", Usage: "allow pushes only to refs that match a `pattern`: * stands for one part between slashes, ** at the end for everything below, {project} and {task} for the container's; repeatable",
		stages: []string{"prestart"}, field: func(s *Settings) any { return &s.Push }},
	{Name: "hashed", Usage: "store the token's SHA-256 in the token file, not the token",
		stages: []string{"prestart"}, field: func(s *Settings) any { return &s.Hashed }},
	{Name: "projects", Usage: "make git in the container find projects at the gate by their forge's addresses, which the file `F` lists", Path: true,
		stages: []string{"prestart"}, field: func(s *Settings) any { return &s.Projects }},
	{Name: "env-dir", Usage: "write the env file on the host instead, to `D`/<container id>.env", Path: true,
		stages: []string{"prestart", "poststop"}, field: func(s *Settings) any { return &s.EnvDir }},

	{Name: "project", Usage: "the project `P` of every container that the hook runs for; a container whose annotation names another project is refused",
		stages: []string{"createRuntime"}, field: func(s *Settings) any { return &s.Project }},
	{Name: "task-id", Usage: "without annotation terok.task, take the first 12 digits of the container's id as the task",
		stages: []string{"createRuntime"}, field: func(s *Settings) any { return &s.TaskID }},
	{Name: "annotated", Usage: "refuse a container without annotations terok.project and terok.task",
		stages: []string{"createRuntime"}, field: func(s *Settings) any { return &s.Annotated }},
}

// Common reports whether the flag stands before the command, and applies to all commands.
func (f Flag) Common() bool { return f.stages == nil }

// Of reports whether the flag stands after this command: a stage, attach or forward.
func (f Flag) Of(stage string) bool {
	return slices.Contains(f.stages, stage) || stage == "createRuntime" && slices.Contains(f.stages, "prestart")
}

// Switch reports whether the flag takes no value.
func (f Flag) Switch() bool {
	_, is := f.field(new(Settings)).(*bool)
	return is
}

// Help returns the flag's name with the name of its value, and its usage with the default,
// for a usage text.
func (f Flag) Help() (name, usage string) {
	value, usage := flag.UnquoteUsage(&flag.Flag{Usage: f.Usage, Value: f.Value(new(Settings))})
	if f.Default != "" {
		usage += " (default: " + f.Default + ")"
	}
	return strings.TrimSpace(f.Name + " " + value), usage
}

// Variable returns the name of the environment variable that sets a common flag.
func (f Flag) Variable() string {
	return "TEROK_GATE_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
}

// Value returns the flag's setting in s as package flag reads and writes it.
func (f Flag) Value(s *Settings) flag.Value { return value{f.field(s)} }

// Copy copies the flag's setting.
func (f Flag) Copy(to, from *Settings) {
	switch field := f.field(to).(type) {
	case *string:
		*field = *f.field(from).(*string)
	case **string:
		*field = *f.field(from).(**string)
	case *[]string:
		*field = slices.Clone(*f.field(from).(*[]string))
	case *time.Duration:
		*field = *f.field(from).(*time.Duration)
	case *bool:
		*field = *f.field(from).(*bool)
	}
}

// value is a setting that a flag sets.
type value struct{ field any }

func (v value) Set(s string) error {
	switch field := v.field.(type) {
	case *string:
		*field = s
	case **string:
		*field = &s
	case *[]string:
		*field = append(*field, s)
	case *time.Duration:
		d, err := time.ParseDuration(s)
		if err == nil && d <= 0 {
			err = errTooShort
		}
		if err != nil {
			return err
		}
		*field = d
	case *bool:
		b, err := strconv.ParseBool(s)
		if err != nil {
			return err
		}
		*field = b
	}
	return nil
}

var errTooShort = errors.New("must be longer than 0s")

// IsBoolFlag tells package flag whether a value follows.
func (v value) IsBoolFlag() bool {
	_, is := v.field.(*bool)
	return is
}

func (v value) String() string { return strings.Join(v.given(), ",") }

// given returns the flag's values on a command line that makes this setting.
func (v value) given() []string {
	switch field := v.field.(type) {
	case *string:
		if *field != "" {
			return []string{*field}
		}
	case **string:
		if *field != nil {
			return []string{**field}
		}
	case *[]string:
		return *field
	case *time.Duration:
		if *field != 0 {
			return []string{field.String()}
		}
	case *bool:
		if *field {
			return []string{"true"}
		}
	}
	return nil
}

// Args returns the arguments that run a command with these settings: the common flags, the
// command and its own flags.
func (s Settings) Args(command string) []string {
	var args []string
	write := func(wanted func(Flag) bool) {
		for _, f := range Flags {
			if !wanted(f) {
				continue
			}
			for _, given := range (value{f.field(&s)}).given() {
				args = append(args, "--"+f.Name)
				if !f.Switch() {
					args = append(args, given)
				}
			}
		}
	}

	write(Flag.Common)
	args = append(args, command)
	write(func(f Flag) bool { return f.Of(command) })
	return args
}

// ParseArgs returns the settings in the arguments of a stage, and the stage's name.
func ParseArgs(args []string) (s Settings, stage string, err error) {
	stage, err = s.ReadArgs(args)
	return s, stage, err
}

// ReadEnvironment reads the environment variables that set common flags.
func (s *Settings) ReadEnvironment() error {
	for _, f := range Flags {
		if !f.Common() {
			continue
		}
		given := os.Getenv(f.Variable())
		if given == "" {
			continue
		}
		if err := f.Value(s).Set(given); err != nil {
			return fmt.Errorf("could not parse %q from environment variable %s: %w", given, f.Variable(), err)
		}
	}
	return nil
}

// ReadArgs reads the arguments of a stage, and returns the stage's name. After an error, it
// still reads what it can of the common flags, so that the error is logged to the right file. The
// error holds no token.
func (s *Settings) ReadArgs(args []string) (stage string, err error) {
	rest, err := s.readCommon(args)
	switch {
	case len(rest) == 0:
		return "", cmp.Or(err, errors.New("no stage"))
	case !slices.Contains(Stages, rest[0]):
		return "", cmp.Or(err, fmt.Errorf("unknown stage %s", quoteArgument(rest[0])))
	case err != nil:
		return rest[0], err
	}

	stage = rest[0]
	set := s.flagSet(func(f Flag) bool { return f.Of(stage) })
	if err := set.Parse(rest[1:]); err != nil {
		return stage, asTyped(err)
	}
	if set.NArg() > 0 {
		return stage, fmt.Errorf("takes no argument %s", quoteArgument(set.Arg(0)))
	}
	return stage, nil
}

// readCommon reads the flags before the stage, and returns the rest, which begins with the
// stage if there is one. A word after an unknown flag counts as that flag's value, unless it
// is the name of a stage.
func (s *Settings) readCommon(args []string) (rest []string, err error) {
	set := s.flagSet(Flag.Common)
	for {
		wrong := set.Parse(args)
		rest = set.Args()
		if err == nil {
			err = asTyped(wrong)
		}
		if err == nil || len(rest) == 0 || slices.Contains(Stages, rest[0]) {
			return rest, err
		}
		if len(rest) == len(args) || !strings.HasPrefix(rest[0], "-") {
			rest = rest[1:]
		}
		args = rest
	}
}

// flagSet returns the wanted flags as a flag set that sets s.
func (s *Settings) flagSet(wanted func(Flag) bool) *flag.FlagSet {
	set := flag.NewFlagSet("", flag.ContinueOnError)
	set.SetOutput(io.Discard)
	for _, f := range Flags {
		if wanted(f) {
			set.Var(f.Value(s), f.Name, "")
		}
	}
	return set
}

// asTyped returns an error of package flag with two dashes before the name of the flag, as
// users type it.
func asTyped(err error) error {
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return err
	}
	text := err.Error()
	for _, before := range []string{"not defined: ", "needs an argument: ", "for flag ", "for "} {
		if start, name, found := strings.Cut(text, before+"-"); found && !strings.HasPrefix(name, "-") {
			return errors.New(start + before + "--" + name)
		}
	}
	return err
}

// quoteArgument quotes an argument. Of an argument that is a token, it returns only the fingerprint.
func quoteArgument(arg string) string {
	if strings.HasPrefix(arg, "terok-g-") {
		return "token " + store.Token(arg).Fingerprint()
	}
	return strconv.Quote(arg)
}

// SettingError says what is wrong with a setting.
type SettingError struct {
	Name  string // of the setting's flag
	Value string // without secrets
	Err   error
}

func (e *SettingError) Error() string { return fmt.Sprintf("%s %q: %v", e.Name, e.Value, e.Err) }
func (e *SettingError) Unwrap() error { return e.Err }

// Limits reports whether the settings limit what tokens allow.
func (s Settings) Limits() bool {
	return s.Access != "" && s.Access != store.AccessWrite || len(s.Push) > 0
}

// Check returns a [SettingError] for the first setting that makes no sense.
func (s Settings) Check() error {
	if err := checkPatterns("allow-project", s.AllowProjects); err != nil {
		return err
	}
	if err := checkPatterns("allow-read", s.AllowReads); err != nil {
		return err
	}
	if len(s.AllowReads) > 0 && len(s.AllowProjects) == 0 {
		return &SettingError{"allow-read", s.AllowReads[0], errors.New("has no effect, since without --allow-project all projects are admitted: add --allow-project")}
	}
	if s.Access != "" && !slices.Contains(accesses, s.Access) {
		return &SettingError{"access", s.Access, errors.New("must be read, append or write")}
	}
	if err := s.checkPush(); err != nil {
		return err
	}

	if _, err := parseEnvMode(s.envMode()); err != nil {
		return &SettingError{"env-mode", s.EnvMode, err}
	}
	if s.GateURL != "" {
		if err := checkGateURL(s.GateURL); err != nil {
			shown := s.GateURL
			if _, host, ok := strings.Cut(shown, "@"); ok {
				shown = "...@" + host // the part before the @ may be a token
			}
			return &SettingError{"gate-url", shown, err}
		}
	}

	if identity := s.identity(); identity != "" {
		if _, _, err := splitIdentity(identity); err != nil {
			return &SettingError{"identity", identity, err}
		}
	}
	if s.Project != "" {
		if err := store.CheckName(s.Project); err != nil {
			return &SettingError{"project", s.Project, errors.New("is not a project name")}
		}
		if s.Annotated {
			return &SettingError{"annotated", "true", errors.New("cannot be used with --project: remove one of them")}
		}
	}
	if s.Projects != "" && !filepath.IsAbs(s.Projects) {
		return &SettingError{"projects", s.Projects, errors.New("is not an absolute path")}
	}
	if s.EnvDir != "" && !filepath.IsAbs(s.EnvDir) {
		return &SettingError{"env-dir", s.EnvDir, errors.New("is not an absolute path")}
	}
	if err := s.checkGateSocket(); err != nil {
		return err
	}
	return s.checkServices()
}

// checkPatterns checks the shell patterns of a setting.
func checkPatterns(name string, patterns []string) error {
	for _, pattern := range patterns {
		if _, err := path.Match(pattern, ""); err != nil {
			return &SettingError{name, pattern, err}
		}
	}
	return nil
}

// checkGateSocket checks the gate socket and the settings that need or exclude one.
func (s Settings) checkGateSocket() error {
	if s.GateSocket == "" {
		switch {
		case s.GateListen != "":
			return &SettingError{"gate-listen", s.GateListen, errors.New("needs a gate socket: add --gate-socket")}
		case s.WithholdToken:
			return &SettingError{"withhold-token", "true", errors.New("needs a gate socket: add --gate-socket")}
		}
		return nil
	}

	switch {
	case !filepath.IsAbs(s.GateSocket):
		return &SettingError{"gate-socket", s.GateSocket, errors.New("is not an absolute path")}
	case len(s.GateSocket) > control.PathLimit:
		return &SettingError{"gate-socket", s.GateSocket, fmt.Errorf("is longer than %d bytes, the limit for a socket's path", control.PathLimit)}
	case s.GateURL != "":
		return &SettingError{"gate-socket", s.GateSocket, errors.New("excludes a gate URL: remove --gate-url, or reset it with --gate-url ''")}
	case s.WithholdToken && s.EnvDir != "":
		return &SettingError{"env-dir", s.EnvDir, errors.New("is of no use if the token is withheld: remove --env-dir or --withhold-token")}
	}
	if at, err := netip.ParseAddrPort(s.gateListen()); err != nil || !at.Addr().Is4() || !at.Addr().IsLoopback() || at.Port() == 0 {
		return &SettingError{"gate-listen", s.GateListen, errors.New("is not of the form 127.0.0.1:port")}
	}
	return nil
}

// Deadline returns how long a stage may take before it gives up: ten seconds more than its
// waits for the lock, for the gate and for terok-gate forward. It ends waits that have no
// limit of their own, such as for a standard input that never ends or a file system that hangs.
func (s Settings) Deadline() time.Duration {
	longest := cmp.Or(s.Tokens.LockTimeout, store.DefaultLockTimeout) + 10*time.Second
	if s.GateSocket != "" {
		longest += s.gateTimeout()
	}
	if len(s.Services) > 0 {
		longest += s.gateTimeout()
	}
	return longest
}

// Timeout returns the time limit in a stage's hook definition, after which the runtime kills the
// stage. It is longer than the deadline, because a killed stage reports no error.
func (s Settings) Timeout() time.Duration { return s.Deadline() + 10*time.Second }

func (s Settings) envMode() string            { return cmp.Or(s.EnvMode, defaultEnvMode) }
func (s Settings) identity() string           { return *cmp.Or(s.Identity, new(defaultIdentity)) }
func (s Settings) gateListen() string         { return cmp.Or(s.GateListen, GateListen) }
func (s Settings) gateTimeout() time.Duration { return cmp.Or(s.GateTimeout, 2*time.Second) }

// URL returns the gate's URL as the container reaches it, empty if it is not known.
func (s Settings) URL() string {
	if s.GateSocket != "" {
		return "http://" + s.gateListen()
	}
	return s.GateURL
}

// noProxy returns variables that keep the container's requests to the gate away from a
// proxy, if the gate is in the container's own network.
func (s Settings) noProxy(env []string) []variable {
	if s.GateSocket == "" {
		return nil
	}
	host, _, _ := strings.Cut(s.gateListen(), ":")
	return noProxyVariables(env, host)
}
