// Caches upload-pack's advertisements for protocol version 2.

package gate

import (
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// keptFor limits how long git's output is cached. The output may depend on more than git's
// environment and the files of an advertisementVersion.
const keptFor = time.Minute

// advertisements caches one advertisement for each repository, by the repository's path. With
// protocol 2, an advertisement lists capabilities and no refs, so it stays the same until git or
// the repository's configuration changes.
type advertisements struct {
	mu   sync.Mutex
	kept map[string]advertisement
}

type advertisement struct {
	version advertisementVersion
	at      time.Time
	text    []byte
}

type advertisementVersion struct{ git, config fileVersion }

// fileVersion identifies a file and its content. Another file, or other content, has another
// fileVersion.
type fileVersion struct {
	device, inode  uint64
	size           int64
	mtime, changed syscall.Timespec
}

func versionOf(path string) (fileVersion, error) {
	info, err := os.Stat(path)
	if err != nil {
		return fileVersion{}, err
	}
	stat := info.Sys().(*syscall.Stat_t)
	return fileVersion{uint64(stat.Dev), stat.Ino, stat.Size, stat.Mtim, stat.Ctim}, nil
}

// advertisementVersion returns the version of git's present advertisement of a repository.
func (r *runner) advertisementVersion(repo repository) (v advertisementVersion, err error) {
	if v.git, err = versionOf(r.program); err == nil {
		v.config, err = versionOf(filepath.Join(repo.path, "config"))
	}
	return v, err
}

// find returns the cached advertisement. ok is false if there is none, or if it is of another
// version or too old.
func (a *advertisements) find(repo repository, version advertisementVersion) (text []byte, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	kept, ok := a.kept[repo.path]
	return kept.text, ok && kept.version == version && time.Since(kept.at) < keptFor
}

func (a *advertisements) keep(repo repository, version advertisementVersion, text []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.kept == nil {
		a.kept = map[string]advertisement{}
	}
	a.kept[repo.path] = advertisement{version: version, at: time.Now(), text: text}
}
