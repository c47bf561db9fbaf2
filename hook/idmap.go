// Maps a container's user and group ids to those of our user namespace.

package hook

import (
	"fmt"
	"os"
	"strings"

	"terok-gate-hook/store"
)

// idMaps translates the ids of one container.
type idMaps struct{ uid, gid idMap }

// idMap is the content of a /proc/<pid>/uid_map (user_namespaces(7)). A nil map maps every
// id to itself.
type idMap []idRange

type idRange struct{ inside, ours, length uint64 }

// idsOf reads the id maps of the process. The kernel shows them relative to our user namespace, unless
// the process is in our user namespace: in that case nothing needs translating. The mappings in
// config.json cannot be used instead: they are wrong when a container joins another container's user
// namespace (podman --userns=container:).
func idsOf(process *store.Pinned) (idMaps, error) {
	theirs, err := process.Link("ns/user")
	if err != nil {
		return idMaps{}, because("user namespace of the container", err)
	}
	ours, err := os.Readlink("/proc/self/ns/user")
	if err != nil {
		return idMaps{}, because("our user namespace", err)
	}
	if theirs == ours {
		return idMaps{}, nil
	}

	var maps idMaps
	if maps.uid, err = readIDMap(process, "uid_map"); err == nil {
		maps.gid, err = readIDMap(process, "gid_map")
	}
	if err != nil {
		return idMaps{}, because("ids of the container", err)
	}
	return maps, nil
}

func readIDMap(process *store.Pinned, name string) (idMap, error) {
	content, err := process.Read(name)
	if err != nil {
		return nil, err
	}
	m, err := parseIDMap(string(content))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return m, nil
}

func parseIDMap(content string) (idMap, error) {
	m := idMap{}
	for line := range strings.Lines(content) {
		var r idRange
		if _, err := fmt.Sscan(line, &r.inside, &r.ours, &r.length); err != nil {
			return nil, fmt.Errorf("%q: %w", line, err)
		}
		m = append(m, r)
	}
	return m, nil
}

// ours translates an id in the container to the id in our user namespace.
func (m idMap) ours(id uint32) (int, error) {
	if m == nil {
		return int(id), nil
	}
	for _, r := range m {
		if i := uint64(id); i >= r.inside && i-r.inside < r.length {
			// A range that is not mapped into our namespace shows as the largest id.
			if ours := r.ours + i - r.inside; ours < 1<<32-1 {
				return int(ours), nil
			}
		}
	}
	return 0, instead("is not mapped into the container's user namespace",
		fmt.Errorf("id %d is not mapped into the container's user namespace", id))
}
