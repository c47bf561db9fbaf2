// Implements precreate, a stage of podman's own, which filters a container's configuration
// before the runtime sees it.

package hook

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
)

// Precreate reads a container's configuration and returns it with variables added to the
// environment of the container's process. The variables give the path of gate.env and, with a gate
// URL, the addresses of the gate and of services. They also make git use the gate. They never hold the
// token, because podman inspect shows the configuration.
//
// A variable that the container already has keeps its value, with these exceptions.
// GIT_CONFIG_PARAMETERS, no_proxy and NO_PROXY get a further entry. GIT_CONFIG_SYSTEM names our
// file, which includes the file that the variable named before. TEROK_GIT_CONFIG_SYSTEM tells
// prestart the name of that included file.
//
// Everything else passes through unchanged, including what our version of the runtime-spec
// does not know. A configuration without our annotations is returned byte for byte.
func (s Settings) Precreate(stdin io.Reader) (config []byte, out Outcome, err error) {
	original, err := readLimited(stdin, configLimit)
	if err != nil {
		return nil, out, because("read the configuration from standard input", err)
	}
	if config, out, err = s.precreate(original); err != nil {
		out.Container = containerIn(original)
	}
	return config, out, printableError(err)
}

func (s Settings) precreate(original []byte) (config []byte, out Outcome, err error) {
	// Members of objects stay undecoded: their order may change, but not their meaning.
	var members map[string]json.RawMessage
	var annotations map[string]string
	if err := json.Unmarshal(original, &members); err != nil {
		return nil, out, because("configuration", notJSON(err))
	}
	if members == nil {
		return nil, out, failure("configuration: a JSON null, not an object")
	}
	if raw, ok := members["annotations"]; ok {
		if err := json.Unmarshal(raw, &annotations); err != nil {
			return nil, out, because("configuration: annotations", notJSON(err))
		}
	}

	meant, err := ofContainer(annotations, func() (string, error) {
		return nameInStorage(containerIn(original), storageIn(original)...)
	})
	if err != nil {
		return nil, out, err
	}
	want, asked, err := s.request(meant)
	out.Grant = want.Grant
	if err == nil && asked {
		err = checkRuntimesAnnotations(annotations)
	}
	if err != nil {
		return nil, out, err
	}
	if !asked {
		return original, out, nil
	}

	var process map[string]json.RawMessage
	if raw, ok := members["process"]; ok {
		if err := json.Unmarshal(raw, &process); err != nil {
			return nil, out, because("configuration: process", notJSON(err))
		}
	}
	if process == nil {
		return nil, out, failure("configuration: has no process")
	}

	var env []string
	if raw, ok := process["env"]; ok {
		if err := json.Unmarshal(raw, &env); err != nil {
			return nil, out, because("configuration: process.env", notJSON(err))
		}
	}
	if env, err = s.addPointers(env, want); err != nil {
		return nil, out, because("configuration", err)
	}

	if process["env"], err = encode(env); err != nil {
		return nil, out, err
	}
	if members["process"], err = encode(process); err != nil {
		return nil, out, err
	}
	config, err = encode(members)
	return config, out, err
}

// checkRuntimesAnnotations refuses annotations that make crun write the output of hooks to
// files of the host. Podman passes them on (crun(1), run.oci.hooks.stderr).
func checkRuntimesAnnotations(annotations map[string]string) error {
	for name := range annotations {
		if strings.HasPrefix(name, "run.oci.hooks.") {
			return refused(instead("an annotation run.oci.hooks.*, which makes crun write to files of the host",
				fmt.Errorf("annotation %q makes crun write to files of the host", name)))
		}
	}
	return nil
}

// containerIn returns the container's id, for the log and nothing else. The configuration has no
// field for the id. Podman 4.3.1 writes the id at the end of the cgroup's path, if there is a cgroup,
// and into the path of the file that is mounted as .containerenv.
func containerIn(config []byte) string {
	var has struct {
		Linux  struct{ CgroupsPath string }
		Mounts []struct{ Destination, Source string }
	}
	_ = json.Unmarshal(config, &has)
	paths := []string{has.Linux.CgroupsPath}
	for _, m := range has.Mounts {
		if path.Base(m.Destination) == ".containerenv" {
			paths = append(paths, path.Dir(path.Dir(m.Source))) // <id>/userdata/.containerenv
		}
	}

	for _, p := range paths {
		id := p[max(0, len(p)-64):]
		if decoded, err := hex.DecodeString(id); err == nil && len(decoded) == 32 {
			return id
		}
	}
	return ""
}

// storageIn returns the directories in which podman's storage may describe the container.
func storageIn(config []byte) []string {
	var has struct{ Root struct{ Path string } }
	_ = json.Unmarshal(config, &has)
	return storageOf(has.Root.Path)
}

// addPointers returns env with the variables that Precreate adds.
func (s Settings) addPointers(env []string, want request) ([]string, error) {
	gateURL := s.URL()
	pointers := []variable{{"TEROK_GATE_ENV", MountPath + "/gate.env"}}
	if gateURL != "" {
		pointers = append(pointers, addressVariables(gateURL, want.Grant)...)
	}
	pointers = append(pointers, s.serviceVariables(want.services)...)
	for _, p := range pointers {
		if !slices.ContainsFunc(env, func(old string) bool { return strings.HasPrefix(old, p.name+"=") }) {
			env = append(env, p.name+"="+p.value)
		}
	}

	replaced := s.noProxy(env)
	if gateURL != "" {
		git, err := s.gitPointers(env)
		if err != nil {
			return nil, err
		}
		replaced = append(append(replaced, git.variables()...), git.remembered()...)
	}
	// Each name may occur only once: programs differ in which of two entries they take.
	for _, v := range replaced {
		env = slices.DeleteFunc(env, func(old string) bool { return strings.HasPrefix(old, v.name+"=") })
		env = append(env, v.name+"="+v.value)
	}
	return env, nil
}

// encode is json.Marshal, except that it leaves <, > and & as they are.
func encode(v any) (json.RawMessage, error) {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), err
}
