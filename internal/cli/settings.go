// The settings of a stage on the command line: hook.Flags as flags of this program.

package cli

import (
	"errors"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"terok-gate-hook/hook"
)

// setting is a flag's value.
type setting struct {
	cli.Generic
	flag hook.Flag
}

// IsBoolFlag tells package flag whether a value follows.
func (s setting) IsBoolFlag() bool { return s.flag.Switch() }

// switchFlag is the flag of a setting that is given without a value.
type switchFlag struct{ *cli.GenericFlag }

func (f switchFlag) TakesValue() bool { return false }
func (f switchFlag) String() string   { return cli.FlagStringer(f) }

// settingFlags makes the flags that are wanted, which set what is given.
func settingFlags(given *hook.Settings, wanted func(hook.Flag) bool) []cli.Flag {
	var flags []cli.Flag
	for _, f := range hook.Flags {
		if !wanted(f) {
			continue
		}
		flag := &cli.GenericFlag{
			Name: f.Name, Usage: f.Usage, DefaultText: f.Default, TakesFile: f.Path,
			Value: setting{f.Value(given), f},
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
func commonFlags(given *hook.Settings) []cli.Flag { return settingFlags(given, hook.Flag.Common) }

// stageFlags stand after the stage.
func stageFlags(given *hook.Settings, stage string) []cli.Flag {
	return settingFlags(given, func(f hook.Flag) bool { return f.Of(stage) })
}

// changedSettings changes those settings that the flags set.
func changedSettings(c *cli.Context, s, given hook.Settings) (hook.Settings, error) {
	for _, f := range hook.Flags {
		if c.IsSet(f.Name) {
			f.Copy(&s, &given)
		}
	}
	return checkedSettings(s)
}

// checkedSettings makes sure that a stage can work with the settings.
func checkedSettings(s hook.Settings) (hook.Settings, error) {
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
