// Turns hook.Flags, the settings of a stage, into flags of this program.

package main

import (
	"errors"

	"github.com/urfave/cli/v2"

	"terok-gate-hook/hook"
	"terok-gate-hook/internal/misuse"
)

// setting is a flag's value.
type setting struct {
	cli.Generic
	flag hook.Flag
}

// IsBoolFlag reports whether the flag needs no value. Package flag calls it.
func (s setting) IsBoolFlag() bool { return s.flag.Switch() }

// settingFlag is the command-line flag of a setting.
type settingFlag struct {
	*cli.GenericFlag
	flag hook.Flag
}

func (f settingFlag) TakesValue() bool { return !f.flag.Switch() }
func (f settingFlag) String() string   { return cli.FlagStringer(f) }

// Names returns the flag's only name. Package cli calls it often, and GenericFlag's own method would
// search the name for commas with a regular expression each time.
func (f settingFlag) Names() []string { return []string{f.Name} }

// settingFlags returns the wanted flags. They store their values in given.
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
			flag.EnvVars = []string{f.Variable()}
		}
		flags = append(flags, settingFlag{flag, f})
	}
	return flags
}

// stageFlags returns the flags that stand after the name of a stage or command.
func stageFlags(given *hook.Settings, stage string) []cli.Flag {
	return settingFlags(given, func(f hook.Flag) bool { return f.Of(stage) })
}

// changedSettings returns a copy of s. In the copy, each setting whose flag is set has the value
// that given holds.
func changedSettings(c *cli.Context, s, given hook.Settings) (hook.Settings, error) {
	for _, f := range hook.Flags {
		if c.IsSet(f.Name) {
			f.Copy(&s, &given)
		}
	}
	return checkedSettings(s)
}

// checkedSettings returns the settings. If one makes no sense, it returns a usage error that
// names its flag.
func checkedSettings(s hook.Settings) (hook.Settings, error) {
	err := s.Check()
	if wrong := (*hook.SettingError)(nil); errors.As(err, &wrong) {
		err = misuse.Errorf("--%w", err)
	}
	return s, err
}
