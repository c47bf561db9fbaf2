package desk

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// killedSync, in the environment, has the test binary sync and be killed: its value is the
// desk's settings.
const killedSync = "TEROK_TEST_KILLED_SYNC"

func TestMain(m *testing.M) {
	if settings := os.Getenv(killedSync); settings != "" {
		os.Exit(syncUntilKilled(settings))
	}
	// Each check runs hundreds of git's processes.
	if checks := flag.Lookup("rapid.checks"); checks != nil {
		_ = checks.Value.Set("15")
	}
	os.Exit(m.Run())
}

// syncUntilKilled syncs, with the stand-in for git on the PATH that knows whom to kill.
func syncUntilKilled(settings string) (status int) {
	var s Settings
	err := json.Unmarshal([]byte(settings), &s)
	if err == nil {
		err = os.WriteFile(filepath.Join(os.Getenv("STANDIN"), "pid"), []byte(strconv.Itoa(os.Getpid())), 0o600)
	}
	var d *Desk
	if err == nil {
		d, err = Open(context.Background(), s)
	}
	if err == nil {
		_, err = d.Sync(context.Background())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
