//go:build engines

package docker

import (
	"os/exec"
	"syscall"
	"testing"

	"terok-gate-hook/internal/testenv"
)

const as = "git -c user.name=n -c user.email=e@example "

// Annotations narrow what a device gives, and widen it as far as install admits.
func TestAnnotationsHoldBesideADevice(t *testing.T) {
	must(t, "terok-gate install --allow-project demo --allow-project lib --allow-read 'tool*' --service llm=4000:127.0.0.1:8080 --allow-service demo=llm")
	t.Cleanup(func() {
		must(t, "terok-gate install --allow-project '*' --allow-read '' --service '' --allow-service '' && terok-gate remove lib && terok-gate remove tools")
	})
	must(t, "terok-gate add lib /root/demo && terok-gate add tools /root/demo && mkdir -p /www && echo hello >/www/index.html")
	service := exec.Command("busybox", "httpd", "-f", "-p", "127.0.0.1:8080", "-h", "/www")
	forward := exec.Command("terok-gate", "forward", "--service", "llm=4000:127.0.0.1:8080")
	for _, row := range []struct {
		daemon *exec.Cmd
		until  string
	}{{service, "busybox wget -qO- http://127.0.0.1:8080/"}, {forward, "test -S /run/terok-gate-forward/control"}} {
		testenv.Must(t, start(row.daemon, row.daemon.Args[0]+row.daemon.Args[1], row.until))
		t.Cleanup(func() {
			_ = row.daemon.Process.Signal(syscall.SIGTERM)
			_ = row.daemon.Wait()
		})
	}

	const (
		lib, tools = "http://127.0.0.1:9418/lib.git", "http://127.0.0.1:9418/tools.git"
		annotated  = "--network none --device terok.dev/project=annotated --annotation terok.project=demo --annotation terok.task=7 "
		clone      = "git clone -q $CODE_REPO /tmp/d; cd /tmp/d; " + as + "commit -q --allow-empty -m two; "
		pushToLib  = "git clone -q " + lib + " /tmp/l; cd /tmp/l; " + as + "commit -q --allow-empty -m two; git push -q"
		ask        = "wget -qO- http://127.0.0.1:4000/"
	)
	for _, row := range []struct{ name, args, script, why string }{
		{"another project", device, "git ls-remote " + lib, "the token is for another project"},
		{"another project to read", device + "--annotation terok.read=lib ", "git ls-remote " + lib + "; git ls-remote " + repo, ""},
		{"a push to a project to read", device + "--annotation terok.read=lib ", pushToLib, "may fetch from this project and not push to it"},
		{"another project to write", device + "--annotation terok.write=lib ", pushToLib, ""},
		{"two, of which one is admitted only to read", device + "--annotation terok.read=tools --annotation terok.write=lib ", "git ls-remote " + tools + "; " + pushToLib, ""},
		{"one that is not admitted to write", device + "--annotation terok.write=tools ", "true", "annotation terok.write: the project is not among those that are admitted by --allow-project"},
		{"one that is not admitted", device + "--annotation terok.read=other ", "true", "annotation terok.read: a project is not among those that are admitted"},
		{"annotated, with another to read", annotated + "--annotation terok.read=lib ", "git ls-remote " + lib + "; git ls-remote " + repo, ""},
		{"annotated, not admitted", "--network none --device terok.dev/project=annotated --annotation terok.project=tools --annotation terok.task=7 ", "true", "the project is not among those that are admitted by --allow-project"},
		{"read only", device + "--annotation terok.access=read ", clone + "git push -q", "may fetch and not push"},
		{"appending", device + "--annotation terok.access=append ", clone + "git push -q", ""},
		{"appending, by force", device + "--annotation terok.access=append ", clone + "git reset -q --hard HEAD~2; " + as + "commit -q --allow-empty -m three; git push -q --force", "the token may only add"},
		{"one branch", device + "--annotation terok.push=refs/heads/try ", clone + "git push -q origin HEAD:refs/heads/try", ""},
		{"another branch", device + "--annotation terok.push=refs/heads/try ", clone + "git push -q", "the token may push to refs/heads/try"},
		{"a service", device + "--annotation terok.services=llm ", ask + " | grep hello", ""},
		{"no service", device, ask, "Connection refused"},
		{"a service that is not there", device + "--annotation terok.services=db ", "true", "service"},
		{"a service for another project", "--network none --device terok.dev/project=lib --annotation terok.services=llm ", "true", "the project may not use a service that the container asks for: see --allow-service"},
	} {
		t.Run(row.name, func(t *testing.T) {
			script := "docker run --rm " + row.args + image + " sh -ec '" + row.script + "'"
			if row.why == "" {
				must(t, script)
				return
			}
			refused(t, script, row.why)
		})
	}
}
