//go:build engines

package docker

import (
	"encoding/json"
	"slices"
	"strings"
	"syscall"
	"testing"

	"terok-gate-hook/internal/testenv"
)

// finding is what doctor --json says of a check.
type finding struct{ Check, State, Text, Remedy string }

func doctor(t *testing.T, flags string) (all []finding) {
	t.Helper()
	testenv.Must(t, json.Unmarshal([]byte(must(t, "terok-gate doctor --json "+flags+" 2>/dev/null || true")), &all))
	return all
}

// amiss returns the findings that are not ok, except those about the log, which has the
// refusals of other tests.
func amiss(all []finding) []finding {
	return slices.DeleteFunc(slices.Clone(all), func(f finding) bool { return f.State == "ok" || f.Check == "log" })
}

func finds(t *testing.T, all []finding, check, state, text string) (remedy string) {
	t.Helper()
	for _, f := range all {
		if f.Check == check && f.State == state && strings.Contains(f.Text, text) {
			if (f.Remedy == "") != (state == "ok") {
				t.Errorf("%+v has a wrong remedy", f)
			}
			return f.Remedy
		}
	}
	t.Errorf("no finding %s, %s, %q among\n%+v", check, state, text, all)
	return ""
}

func TestDoctorTriesADevice(t *testing.T) {
	before := must(t, "docker ps -aq; docker images -aq")
	for _, flags := range []string{"", "--image " + image} {
		all := doctor(t, flags)
		if wrong := amiss(all); len(wrong) > 0 {
			t.Errorf("%+v", wrong)
		}
		finds(t, all, "docker", "ok", "reads /etc/cdi")
		finds(t, all, "devices", "ok", "2 in /etc/cdi/terok.json")
		finds(t, all, "docker-probe", "ok", "gets its token and loses it")
		finds(t, all, "docker-probe", "ok", repo+" can be read from a container")
		for _, f := range all {
			if strings.Contains(f.Text, "podman") || slices.Contains([]string{"podman", "hooks", "definition", "containers", "forgotten", "probe"}, f.Check) {
				t.Errorf("there is no podman, and doctor finds %+v", f)
			}
		}
	}
	if after := must(t, "docker ps -aq; docker images -aq"); after != before {
		t.Errorf("doctor leaves containers or images: %s, was %s", after, before)
	}
}

// Each row breaks something. Doctor finds that, and finds nothing amiss after its remedy was
// pasted.
func TestDoctorsRemediesAreRightWhenPasted(t *testing.T) {
	const file = "/etc/cdi/terok.json"
	for _, row := range []struct{ name, breaks, check, state, text string }{
		{"no file", "rm " + file, "devices", "broken", "there is no " + file},
		{"another user's file", "chown daemon " + file, "devices", "broken", file + " belongs to user 1"},
		{"a file that others may write", "chmod 666 " + file, "devices", "broken", "mode 0666 of " + file},
		{"a directory that others may write", "chmod 777 /etc/cdi", "devices", "broken", "mode 0777 of /etc/cdi"},
		{"half a file", "truncate -s 100 " + file, "devices", "broken", "unexpected end of JSON"},
		{"a name that CDI refuses", `sed -i 's,"name": "demo","name": "demo.",' ` + file, "devices", "broken", "engines drop the whole file"},
		{"another gate's socket", `sed -i 's,/run/terok-gate/control,/run/other/control,' ` + file, "devices", "broken", "asks another gate than the installed one"},
		{"another program's file", `sed -i 's,terok.dev/project,example.com/other,' ` + file, "devices", "broken", "was not written by terok-gate install"},
		{"no device", `terok-gate add late >/dev/null && sed -i 's,"name": "late","name": "early",' ` + file, "devices", "warning", "repositories without a device: late"},
	} {
		t.Run(row.name, func(t *testing.T) {
			must(t, row.breaks)
			remedy := finds(t, doctor(t, ""), row.check, row.state, row.text)
			must(t, remedy)
			if wrong := amiss(doctor(t, "")); len(wrong) > 0 {
				t.Errorf("after %s: %+v", remedy, wrong)
			}
		})
	}
	must(t, "terok-gate remove late; rm -f "+file+".away; ! grep early "+file)
}

func TestDoctorFindsWhatKeepsDockerFromDevices(t *testing.T) {
	t.Run("no gate", func(t *testing.T) {
		testenv.Must(t, gate.Process.Signal(syscall.SIGTERM))
		_ = gate.Wait()
		all := doctor(t, "")
		testenv.Must(t, startGate())
		finds(t, all, "terok-gate", "broken", "no gate listens")
		if slices.ContainsFunc(all, func(f finding) bool { return f.Check == "docker-probe" }) {
			t.Errorf("there is no gate, but doctor tries a device: %+v", all)
		}
	})
	t.Run("no hook's program", func(t *testing.T) {
		must(t, "cp /usr/bin/terok-gate-hook /usr/bin/terok-gate /usr/local/bin/ && mv /usr/bin/terok-gate-hook /usr/bin/away")
		defer must(t, "mv /usr/bin/away /usr/bin/terok-gate-hook && rm /usr/local/bin/terok-gate* && terok-gate install")
		finds(t, doctor(t, ""), "devices", "broken", "runs /usr/bin/terok-gate-hook, which does not exist")
	})
	t.Run("no image", func(t *testing.T) {
		finds(t, doctor(t, "--image none"), "docker-probe", "broken", "Docker does not start the probe's container, even without a device")
	})
	t.Run("no daemon", func(t *testing.T) {
		endDocker(t)
		all := doctor(t, "")
		testenv.Must(t, startDocker())
		if remedy := finds(t, all, "docker", "warning", "Docker does not answer at /run/docker.sock: "); remedy != "start dockerd" {
			t.Error(remedy)
		}
	})
	for _, row := range []struct{ name, change, text, remedy string }{
		{"features.cdi off", ".features.cdi = false", "its setting features.cdi is off", `in /etc/docker/daemon.json, add "features": {"cdi": true}; then: restart dockerd`},
		{"other directories", `."cdi-spec-dirs" = ["/opt/cdi"]`, "reads devices in /opt/cdi, not in /etc/cdi", `in /etc/docker/daemon.json, add "cdi-spec-dirs": ["/opt/cdi","/etc/cdi"]; then: restart dockerd`},
	} {
		t.Run(row.name, func(t *testing.T) {
			restartDocker(t, row.change)
			if remedy := finds(t, doctor(t, ""), "docker", "broken", row.text); remedy != row.remedy {
				t.Error(remedy)
			}
		})
	}
	if wrong := amiss(doctor(t, "")); len(wrong) > 0 {
		t.Errorf("%+v", wrong)
	}
}
