// Decides, for terok-nri, what one container of a Kubernetes pod asks for, before the engine
// makes the container. The hook decides again when the container starts.

package hook

import (
	"maps"
	"slices"
	"strings"
)

// PodContainer is what one container of a Kubernetes pod asks for.
type PodContainer struct {
	Annotations map[string]string // the pod's annotations that apply to the container, for its hook to read
	Projects    []string          // the projects that these annotations name, the container's own first
	Env         []string          // the container's environment with the variables that Precreate adds
}

// PodContainer reads the annotations of a pod for the container called name, whose environment
// is env. As in podman's pods, an annotation terok.NAME/CONTAINER is for one container alone, and
// takes precedence over terok.NAME. asked is false for a container that asks for no token.
func (s Settings) PodContainer(pod map[string]string, name string, env []string) (c PodContainer, asked bool, err error) {
	defer func() { err = printableError(err) }()

	c.Annotations = map[string]string{}
	for annotation, value := range pod {
		base, container, of := strings.Cut(annotation, "/")
		_, own := pod[base+"/"+name]
		if IsOurs(base) && (of && container == name || !of && !own) {
			c.Annotations[base] = value
		}
	}

	want, asked, err := s.request(c.Annotations)
	if !asked || err != nil {
		return c, asked, err
	}
	c.Projects = append([]string{want.Project}, slices.Sorted(maps.Keys(want.Also))...)

	c.Env, err = s.addPointers(slices.Clone(env), want)
	return c, true, err
}
