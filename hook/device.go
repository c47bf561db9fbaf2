// Completes the annotations of a container that asked for a device (CDI), and chooses the
// environment variables that devices give their containers.

package hook

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"terok-gate-hook/store"
)

// ofDevice returns the annotations with the device's project added and, with [Settings.TaskID],
// a task. A container that asks for a device needs a gate, so it is refused if its annotations are
// missing or contradict the device.
func (s Settings) ofDevice(annotations map[string]string, id string) (map[string]string, error) {
	project, hasProject := annotations[ProjectAnnotation]
	task, hasTask := annotations[TaskAnnotation]
	if s.Annotated && !hasProject && !hasTask {
		return nil, refused(failure("the device needs annotations " + ProjectAnnotation + " and " + TaskAnnotation + ", and there are none"))
	}
	if s.Project == "" {
		return annotations, nil
	}

	if hasProject && project != s.Project {
		return nil, refused(instead("annotation "+ProjectAnnotation+" names another project than the device",
			fmt.Errorf("annotation %s: %.128q is another project than the device's, %s", ProjectAnnotation, project, s.Project)))
	}
	if !hasTask && s.TaskID {
		const digits = 12 // as many as engines show
		task, hasTask = id[:min(digits, len(id))], true
		if store.CheckName(task) != nil {
			return nil, refused(failure("the container's id cannot be its task: annotate the container with " + TaskAnnotation))
		}
	}

	asked := maps.Clone(annotations)
	if asked == nil {
		asked = map[string]string{}
	}
	asked[ProjectAnnotation] = s.Project
	if hasTask {
		asked[TaskAnnotation] = task
	}
	return asked, nil
}

// sharesPod reports whether a container that asked for a device is in a pod, whose
// containers share a network: without a token, the gate could not tell them apart. By forging
// the annotation of a pod, a container's author only makes the gate ask for the token.
func (s Settings) sharesPod(annotations map[string]string) bool {
	if s.Project == "" && !s.Annotated {
		return false
	}
	for _, pod := range []string{"io.kubernetes.cri.sandbox-id", "io.kubernetes.cri-o.SandboxID"} { // of containerd; of CRI-O and podman
		if annotations[pod] != "" {
			return true
		}
	}
	return false
}

// DeviceEnvironment returns the variables that a device gives its containers. If project is
// empty, the device is for several projects. CDI replaces the container's variables of the same
// names. If the token is withheld, git does not need its variables, so they are left out.
func (s Settings) DeviceEnvironment(project string) ([]string, error) {
	var env []string
	if !s.WithholdToken {
		var err error
		if env, err = s.addPointers(nil, request{Grant: store.Grant{Project: project}}); err != nil {
			return nil, err
		}
	} else {
		for _, v := range append(addressVariables(s.URL(), store.Grant{Project: project}), s.noProxy(nil)...) {
			env = append(env, v.name+"="+v.value)
		}
	}
	if project == "" {
		env = slices.DeleteFunc(env, func(v string) bool { return strings.HasPrefix(v, "CODE_REPO=") })
	}
	return env, nil
}
