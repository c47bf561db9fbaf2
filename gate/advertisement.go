// What upload-pack advertises with protocol 2, kept.

package gate

import (
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// keptFor bounds the age of what git said, should it depend on more than the
// environment pins and the version shows.
const keptFor = time.Minute

// advertisements are those of repositories, by path. With protocol 2 one lists no refs,
// only what git can do there: it is the same until git or the repository's configuration
// changes.
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

// fileVersion tells a file from another in its place, and from what it was.
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

// advertisementVersion returns the version of what this git says of a repository.
func (r *runner) advertisementVersion(repo repository) (v advertisementVersion, err error) {
	if v.git, err = versionOf(r.program); err == nil {
		v.config, err = versionOf(filepath.Join(repo.path, "config"))
	}
	return v, err
}

// find returns what is kept and still true.
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
