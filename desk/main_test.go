package desk

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// killedAt is an environment variable that makes the test binary do what its value says, and be killed: see
// [killed].
const killedAt = "TEROK_TEST_KILLED_AT"

func TestMain(m *testing.M) {
	if what := os.Getenv(killedAt); what != "" {
		os.Exit(untilKilled(what))
	}
	// Each check runs hundreds of git's processes.
	if checks := flag.Lookup("rapid.checks"); checks != nil {
		_ = checks.Value.Set("10")
	}
	os.Exit(m.Run())
}

// killed says what a process does until it is killed.
type killed struct {
	Settings
	Do  string // sync, release or restore
	Ref string // the ref to restore or release
}

// untilKilled does what killedAt says, after it has told the stand-in for git which process to kill: this
// one.
func untilKilled(what string) (status int) {
	var k killed
	err := json.Unmarshal([]byte(what), &k)
	if err == nil {
		err = os.WriteFile(filepath.Join(os.Getenv("STANDIN"), "pid"), []byte(strconv.Itoa(os.Getpid())), 0o600)
	}
	if err == nil {
		err = k.do(context.Background())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func (k killed) do(ctx context.Context) error {
	if k.Do == "restore" {
		_, err := k.Gate.Restore(ctx, k.Ref)
		return err
	}
	d, err := Open(ctx, k.Settings)
	if err != nil {
		return err
	}
	if k.Do == "sync" {
		_, err = d.Sync(ctx)
		return err
	}
	o, err := d.Offer(ctx, k.Ref, k.Ref)
	if err != nil {
		return err
	}
	return o.Release(ctx, true, io.Discard)
}
