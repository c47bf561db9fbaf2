// Measures the time that the hooks add to podman run.

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// podmans returns a line for each median.
func podmans(measured map[string]series) (text string) {
	for runtime, took := range measured {
		for variant := range took {
			text += fmt.Sprintf("%s, %s: %.0f ms\n", runtime, variant, took.median(variant))
		}
	}
	return text
}

// podman measures `podman run --rm true` with both of our hooks, with two hooks that only read
// their input, and with no hook. It does not touch the storage of the machine's podman.
func (w *world) podman(rounds int) (map[string]series, error) {
	dir := filepath.Join(w.dir, "podman")
	rootfs := filepath.Join(dir, "rootfs")
	if err := os.MkdirAll(filepath.Join(rootfs, "bin"), 0o755); err != nil {
		return nil, err
	}

	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return nil, err
	}
	if out, err := exec.Command("cp", busybox, filepath.Join(rootfs, "bin/busybox")).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}

	if err := w.furnish(10, 0); err != nil {
		return nil, err
	}

	variants := []string{"both hooks", "two that only read", "none"}
	for i, variant := range variants {
		hooks := filepath.Join(dir, fmt.Sprint("hooks", i))
		if err := os.MkdirAll(hooks, 0o755); err != nil {
			return nil, err
		}

		for _, stage := range []string{"prestart", "poststop"} {
			command := []string{w.programs["reads"]}
			switch variant {
			case "both hooks":
				command = w.command(stage).Args
			case "none":
				continue
			}

			definition, err := json.Marshal(map[string]any{
				"version": "1.0.0", "hook": map[string]any{"path": command[0], "args": command},
				"when": map[string]any{"always": true}, "stages": []string{stage},
			})
			if err != nil {
				return nil, err
			}
			if err := os.WriteFile(filepath.Join(hooks, stage+".json"), definition, 0o644); err != nil {
				return nil, err
			}
		}

		// scripts/try has these settings, too, and gives the reasons.
		conf := fmt.Sprintf(`[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1000:1000"]
pids_limit = 0
netns = "none"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
hooks_dir = [%q]
`, hooks)
		if err := os.WriteFile(hooks+".conf", []byte(conf), 0o644); err != nil {
			return nil, err
		}
	}

	measured := map[string]series{"crun": {}, "runc": {}}
	for round := range rounds + 1 {
		for runtime, took := range measured {
			for i, variant := range variants {
				// crun refuses to run where a cgroup v2 tree lies beside v1.
				const alone = `umount /sys/fs/cgroup/unified 2>/dev/null; exec "$@"`
				podman := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", alone, "sh", "podman",
					"--root", filepath.Join(dir, "storage"), "--runroot", filepath.Join(dir, "run"), "--tmpdir", filepath.Join(dir, "tmp"),
					"--log-level", "error", "--runtime", runtime,
					"run", "--rm", "--annotation", "terok.project=demo", "--annotation", "terok.task=bench", "--rootfs", rootfs, "/bin/busybox", "true")
				podman.Env = append(os.Environ(), fmt.Sprintf("CONTAINERS_CONF=%s/hooks%d.conf", dir, i))

				start := time.Now()
				if out, err := podman.CombinedOutput(); err != nil {
					return nil, fmt.Errorf("%v: %w: %s", podman.Args, err, out)
				}
				if round > 0 { // the first round makes podman's storage
					took.add(variant, time.Since(start))
				}
			}
		}
	}
	return measured, nil
}
