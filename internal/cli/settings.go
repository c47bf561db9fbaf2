// The settings of a stage on the command line: hook.Flags as flags of this program.

package cli

import (
	"errors"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"terok-gate-hook/hook"
)

// setting is one flag's value. Each flag has a hook.Settings of its own to keep it in.
type setting struct {
	cli.Generic
	flag hook.Flag
	in   *hook.Settings
}

// IsBoolFlag tells package flag whether a value follows.
func (s setting) IsBoolFlag() bool { return s.flag.Switch() }

// switchFlag is the flag of a setting that is given without a value.
type switchFlag struct{ *cli.GenericFlag }

func (f switchFlag) TakesValue() bool { return false }
func (f switchFlag) String() string   { return cli.FlagStringer(f) }

// settingFlags makes the flags that are wanted.
func settingFlags(wanted func(hook.Flag) bool) []cli.Flag {
	var flags []cli.Flag
	for _, f := range hook.Flags {
		if !wanted(f) {
			continue
		}
		in := new(hook.Settings)
		flag := &cli.GenericFlag{
			Name: f.Name, Usage: f.Usage, DefaultText: f.Default, TakesFile: f.Path,
			Value: setting{f.Value(in), f, in},
		}
		if f.Common() {
			flag.EnvVars = []string{environmentVariable(f.Name)}
		}
		if f.Switch() {
			flags = append(flags, switchFlag{flag})
			continue
		}
		flags = append(flags, flag)
	}
	return flags
}

// environmentVariable names the variable that stands in for a shared flag.
func environmentVariable(flag string) string {
	return "TEROK_GATE_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// commonFlags stand before the command.
func commonFlags() []cli.Flag { return settingFlags(hook.Flag.Common) }

// stageFlags stand after the stage.
func stageFlags(stage string) []cli.Flag {
	return settingFlags(func(f hook.Flag) bool { return f.Of(stage) })
}

// settingsOf reads the settings from the flags. What they do not set is left at its
// default.
func settingsOf(c *cli.Context) (hook.Settings, error) {
	return changedSettings(c, hook.Settings{})
}

// changedSettings changes those settings that the flags set.
func changedSettings(c *cli.Context, s hook.Settings) (hook.Settings, error) {
	for _, f := range hook.Flags {
		if given, ok := c.Generic(f.Name).(setting); ok && c.IsSet(f.Name) {
			f.Copy(&s, given.in)
		}
	}
	if s.EnvDir != "" {
		var err error
		if s.EnvDir, err = filepath.Abs(s.EnvDir); err != nil {
			return s, err
		}
	}
	err := s.Check()
	if wrong := (*hook.SettingError)(nil); errors.As(err, &wrong) {
		err = misusef("--%w", err)
	}
	return s, err
}
