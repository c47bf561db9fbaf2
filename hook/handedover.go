// Records which containers have been handed over to the gate, so that attach can hand them
// over again to a gate that has lost its listeners. Root enters the network of each process that a
// record names, so only the hooks' user may write records. The records are not in the token file,
// since the gate's user can write to that.

package hook

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/control"
	"terok-gate-hook/store"
)

// record is what is written about a container: the request to the gate, and the services of the host
// that the container may use, each with its address in the container.
type record struct {
	control.Request
	Services map[string]string `json:"services,omitempty"`
}

// remember records that the gate serves the container of an entry, and that terok-gate forward serves
// the container's services. Each life of a container has a record of its own.
func (s Settings) remember(entry store.Entry) error {
	r := record{s.handing(entry), entry.Gate.Services}
	r.Version = control.Version
	content, err := json.Marshal(r)
	if err != nil {
		return err
	}

	dir, err := openRecords(s.GateSocket, true)
	if err != nil {
		return err
	}
	defer unix.Close(dir)

	name := r.Container + "-" + store.Token(r.Token).Fingerprint()
	file, err := unix.Openat(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer unix.Close(file)

	if n, err := unix.Write(file, content); err != nil {
		return err
	} else if n < len(content) {
		return io.ErrShortWrite
	}
	return nil
}

// forget removes the records of a container that has stopped. A record whose process is
// alive stays: it belongs to the container's next life.
func (s Settings) forget(container string) error {
	return s.eachRecord(func(dir *os.File, name string) error {
		if life, ours := strings.CutPrefix(name, container+"-"); !ours || len(life) != 8 {
			return nil
		}
		if e, err := readRecord(dir, name); err == nil && e.Process.Life() == store.Alive {
			return nil
		}
		return unix.Unlinkat(int(dir.Fd()), name, 0)
	})
}

// HandedOver returns the living containers that hooks have handed over to the gate, as
// entries with the tokens' keys, and removes the records of dead ones. An error names the
// records that could not be read; the living containers of the other records are returned with the error.
func (s Settings) HandedOver() (living []store.Entry, err error) {
	var broken []error
	err = s.eachRecord(func(dir *os.File, name string) error {
		e, err := readRecord(dir, name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			broken = append(broken, fmt.Errorf("%s: %w", filepath.Join(dir.Name(), name), err))
		case e.Process.Life() == store.Alive:
			living = append(living, e)
		case e.Process.Life() == store.Dead:
			return unix.Unlinkat(int(dir.Fd()), name, 0)
		}
		return nil
	})
	return living, errors.Join(append(broken, err)...)
}

// eachRecord calls visit for each record, and returns the errors joined. Without a gate
// socket, or a directory of records, there are no records.
func (s Settings) eachRecord(visit func(dir *os.File, name string) error) error {
	if s.GateSocket == "" {
		return nil
	}
	fd, err := openRecords(s.GateSocket, false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}

	dir := os.NewFile(uintptr(fd), control.HandedOver(s.GateSocket))
	defer dir.Close()

	names, err := dir.Readdirnames(-1)
	for _, name := range names {
		err = errors.Join(err, visit(dir, name))
	}
	return err
}

// openRecords opens the directory of records. With create, it first makes a missing one. It refuses
// a directory that another user could write to: that user would decide in which networks the
// gate gets listeners.
func openRecords(socket string, create bool) (dir int, err error) {
	path := control.HandedOver(socket)
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	dir, err = unix.Open(path, flags, 0)
	if create && err == unix.ENOENT {
		if err = unix.Mkdir(path, 0o700); err == nil || err == unix.EEXIST {
			dir, err = unix.Open(path, flags, 0)
		}
	}
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: path, Err: err}
	}

	var stat unix.Stat_t
	if err = unix.Fstat(dir, &stat); err == nil && (int(stat.Uid) != os.Geteuid() || stat.Mode&0o022 != 0) {
		err = failure(text(path) + " does not belong to the hooks' user, or others can write there: remove it")
	}
	if err != nil {
		unix.Close(dir)
		return -1, err
	}
	return dir, nil
}

// readRecord returns a record as an entry that has only what the record holds, with the token's key
// in place of the token.
func readRecord(dir *os.File, name string) (e store.Entry, err error) {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return e, err
	}
	file := os.NewFile(uintptr(fd), name)
	defer file.Close()

	content, err := io.ReadAll(io.LimitReader(file, control.MessageLimit))
	if err != nil {
		return e, err
	}
	r := record{}
	if r.Request, err = control.Parse(content); err != nil {
		return e, err
	}
	if err := json.Unmarshal(content, &r); err != nil {
		return e, err
	}

	return store.Entry{
		Token: store.Token(r.Token), Container: r.Container, Process: r.Process,
		Gate: &store.Attached{Listen: r.Listen, Withheld: r.Withheld, Services: r.Services},
	}, nil
}
