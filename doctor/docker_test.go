package doctor

import (
	"encoding/json"
	"strings"
	"testing"

	"terok-gate-hook/engines"
)

// Excerpts of what docker info --format '{{json .}}' says (26.1.5, 28.5.2; 20.10 as documented).
func TestDockerIsSaidToReadDevicesOrNot(t *testing.T) {
	here := engines.Place{Devices: "/etc/cdi/terok.json"}
	const restart = "restart dockerd"
	for _, row := range []struct{ name, info, text, remedy string }{
		{"before 25", `{"ServerVersion": "20.10.24+dfsg1"}`, "Docker 20.10.24+dfsg1 reads no devices, and Docker 25 or later does", "install Docker 25 or later"},
		{"26 as it is", `{"ServerVersion": "26.1.5+dfsg1", "CDISpecDirs": []}`, "its setting features.cdi is off", `"features": {"cdi": true}`},
		{"26 with the feature", `{"ServerVersion": "26.1.5+dfsg1", "CDISpecDirs": ["/etc/cdi", "/var/run/cdi"]}`, "", ""},
		{"28 with the feature off", `{"ServerVersion": "28.5.2+dfsg4", "CDISpecDirs": []}`, "its setting features.cdi is off", `"features": {"cdi": true}`},
		{"other directories", `{"ServerVersion": "28.5.2+dfsg4", "CDISpecDirs": ["/opt/cdi"]}`, "reads devices in /opt/cdi, not in /etc/cdi", `"cdi-spec-dirs": ["/opt/cdi","/etc/cdi"]`},
		{"28 that lists another device", `{"ServerVersion": "28.5.2+dfsg4", "CDISpecDirs": ["/etc/cdi"], "DiscoveredDevices": [{"Source": "cdi", "ID": "terok.dev/project=other"}]}`, "does not list terok.dev/project=demo", "install"},
		{"28 that lists ours", `{"ServerVersion": "28.5.2+dfsg4", "CDISpecDirs": ["/etc/cdi"], "DiscoveredDevices": [{"Source": "cdi", "ID": "terok.dev/project=demo"}]}`, "", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			var info dockerInfo
			must(t, json.Unmarshal([]byte(row.info), &info))
			e := examination{Doctor: Doctor{Place: here}, devicesOf: []string{"demo"}}
			text, remedy := e.dockerReads(info)
			if !strings.Contains(text, row.text) || !strings.Contains(remedy, row.remedy) || (row.text == "") != (text+remedy == "") {
				t.Errorf("%q → %q", text, remedy)
			}
			if strings.HasPrefix(row.remedy, `"`) && !strings.HasSuffix(remedy, restart) {
				t.Errorf("%q does not end with %q", remedy, restart)
			}
		})
	}
}

// Docker's own containerd has these settings.
func TestContainerdServesNoPodsIfItsPluginIsDisabled(t *testing.T) {
	for settings, want := range map[string]bool{
		"disabled_plugins = [\"cri\"]\nimports = []\n":                     true,
		"disabled_plugins = ['io.containerd.grpc.v1.cri']\n":               true,
		"disabled_plugins = []\n[plugins.\"io.containerd.grpc.v1.cri\"]\n": false,
	} {
		if servesNoPods(settings) != want {
			t.Errorf("%q: want %v", settings, want)
		}
	}
}

// Excerpts of what containerd config dump says (1.7.24, 2.1.9; 1.6 as documented).
func TestContainerdIsSaidToReadDevicesOrNot(t *testing.T) {
	const (
		of17 = "disabled_plugins = []\n[plugins]\n  [plugins.\"io.containerd.grpc.v1.cri\"]\n"
		of21 = "disabled_plugins = []\n[plugins]\n  [plugins.'io.containerd.cri.v1.runtime']\n    enable_cdi = true\n"
	)
	for _, row := range []struct{ name, settings, text, remedy string }{
		{"1.6", of17, "reads no devices, and containerd 1.7 or later does", "install containerd 1.7 or later"},
		{"1.7 as it is", of17 + "    cdi_spec_dirs = [\"/etc/cdi\", \"/var/run/cdi\"]\n    enable_cdi = false\n", "its setting enable_cdi is off", `below [plugins."io.containerd.grpc.v1.cri"], set enable_cdi = true; then: restart containerd`},
		{"1.7 with enable_cdi", of17 + "    cdi_spec_dirs = [\"/etc/cdi\", \"/var/run/cdi\"]\n    enable_cdi = true\n", "", ""},
		{"2.1 as it is", of21 + "    cdi_spec_dirs = ['/etc/cdi', '/var/run/cdi']\n", "", ""},
		{"2.1, other directories", of21 + "    cdi_spec_dirs = ['/opt/cdi']\n", "reads devices from '/opt/cdi', not from /etc/cdi", `below [plugins."io.containerd.cri.v1.runtime"], set cdi_spec_dirs = ['/opt/cdi', "/etc/cdi"]; then: restart containerd`},
	} {
		t.Run(row.name, func(t *testing.T) {
			e := examination{Doctor: Doctor{Place: engines.Place{Devices: "/etc/cdi/terok.json"}}}
			text, remedy := e.containerdReads("containerd", row.settings)
			if !strings.Contains(text, row.text) || !strings.Contains(remedy, row.remedy) || (row.text == "") != (text+remedy == "") {
				t.Errorf("%q → %q", text, remedy)
			}
		})
	}
}
