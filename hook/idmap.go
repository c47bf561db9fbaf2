// User and group ids of a container, as our user namespace calls them.

package hook

import (
	"bufio"
	"fmt"
	"os"
)

// idMaps translates the ids of one container.
type idMaps struct{ uid, gid idMap }

// idMap is a file of the form of /proc/<pid>/uid_map (user_namespaces(7)); nil
// maps every id to itself.
type idMap []idRange

type idRange struct{ inside, ours, length uint64 }

// idsOf reads the maps of the process. The kernel shows them as seen by the reader,
// but relative to the parent if reader and process share a user namespace: then
// nothing needs translating. config.json's mappings are no substitute: they are
// wrong when a container joins another's user namespace (podman
// --userns=container:).
func idsOf(pid int) (idMaps, error) {
	theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/user", pid))
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
	if maps.uid, err = readIDMap(fmt.Sprintf("/proc/%d/uid_map", pid)); err == nil {
		maps.gid, err = readIDMap(fmt.Sprintf("/proc/%d/gid_map", pid))
	}
	if err != nil {
		return idMaps{}, because("ids of the container", err)
	}
	return maps, nil
}

func readIDMap(path string) (idMap, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	m := idMap{}
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		var r idRange
		if _, err := fmt.Sscan(lines.Text(), &r.inside, &r.ours, &r.length); err != nil {
			return nil, fmt.Errorf("%s: %q: %w", path, lines.Text(), err)
		}
		m = append(m, r)
	}
	return m, lines.Err()
}

// ours returns what we call the container's id.
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
