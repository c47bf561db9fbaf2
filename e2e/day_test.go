package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"

	"terok-gate-hook/internal/testenv"
)

// The day of a user who runs agents: a project and a library come from a forge, containers
// without a network work on them, and what is reviewed goes back.

// forgeOf is a user's repositories at the forge of a machine: demo, which is reached by
// ssh, and its submodule lib, which is reached by https.
type forgeOf struct {
	account
	directory string
	demo, lib string // addresses
}

// newForge sets up a forge on a machine, as Debian's packages make one: an account git, which
// sshd lets in, and an https server.
func newForge(t *testing.T, m *machine) {
	t.Helper()
	testenv.Need(t, "sshd", "ssh", "git-shell")
	m.must(t, "root", `useradd --create-home --home-dir /srv/git --shell $(command -v git-shell) git; usermod --password '*' git
		mkdir /srv/git/.ssh; echo 127.0.0.1 `+testenv.ForgeName+` >>/etc/hosts
		systemctl unmask ssh.service 2>/dev/null; ssh-keygen -A >/dev/null; systemctl start ssh.service
		for key in /etc/ssh/ssh_host_*_key.pub; do echo "`+testenv.ForgeName+` $(cat $key)"; done >/etc/ssh/ssh_known_hosts`)

	network, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", m.init.Process.Pid))
	testenv.Must(t, err)
	defer network.Close()
	forge := testenv.HTTPSForge{
		Directory: "/srv/git",
		Around:    []string{"nsenter", "--all", "--target", strconv.Itoa(m.init.Process.Pid)},
	}
	err = testenv.InNetwork(network, func() (err error) {
		forge.Listener, err = net.Listen("tcp", "127.0.0.1:443")
		return err
	})
	testenv.Must(t, err)
	_, certificate := forge.Start(t)
	testenv.Must(t, os.WriteFile(m.path("/srv/certificate"), certificate, 0o644))
}

// at runs a script as the forge's account, in the directory of the user's repositories. The
// script has a shell function that commits a file to the main branch of a repository.
func (f forgeOf) at(t *testing.T, script string) string {
	t.Helper()
	out, err := f.enter("runuser", "--user", "git", "--", "sh", "-ec", `
		export HOME=/srv/git GIT_AUTHOR_NAME=upstream GIT_COMMITTER_NAME=upstream EMAIL=upstream@example.com
		mkdir -p ~/`+f.directory+`; cd ~/`+f.directory+`
		commit() { # REPOSITORY FILE
			rm -rf work; git clone --quiet $1.git work 2>/dev/null; echo "$2" >work/$2; git -C work add $2
			git -C work commit --quiet --message "$2"; git -C work push --quiet origin HEAD:main
		}
		`+script)
	if err != nil {
		t.Fatalf("at the forge: %s: %v\n%s", script, err, out)
	}
	return strings.TrimSpace(out)
}

// fill makes the user's repositories in a directory of the forge, in the place of earlier
// ones, and prepares the user's ssh and git for the forge.
func (a account) fill(t *testing.T, directory string) forgeOf {
	t.Helper()
	f := forgeOf{
		account: a, directory: directory,
		demo: "git@" + testenv.ForgeName + ":" + directory + "/demo.git", lib: "https://" + testenv.ForgeName + "/" + directory + "/lib.git",
	}
	a.must(t, `mkdir -p -m 700 ~/.ssh; ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/id_ed25519; git config --global http.sslCAInfo /srv/certificate`)
	a.machine.must(t, "root", "cat ~"+a.user+"/.ssh/id_ed25519.pub >>/srv/git/.ssh/authorized_keys; chown -R git: /srv/git")
	f.at(t, `rm -rf demo.git lib.git; for project in demo lib; do git init --quiet --bare --initial-branch=main $project.git; done
		commit lib lib; commit demo README
		git -c protocol.file.allow=always -C work submodule --quiet add ../lib.git lib
		git -C work config --file .gitmodules submodule.lib.url `+f.lib+`
		git -C work commit --quiet --all --message submodule; git -C work push --quiet origin HEAD:main`)
	return f
}

// agent returns a command that runs a container without a network, and without anything
// about git in its environment. The container clones demo with its library, commits, and
// runs the script. If the parameter "as" is not empty, it is a command such as setpriv, by
// which the container does all of that as another user.
func (f forgeOf) agent(t *testing.T, task, flags, as, script string) string {
	t.Helper()
	image := strings.Join(plain(withGitAlone(t)), " ") + " --workdir /dev/shm " + image
	return "podman run --network none --annotation terok.project=demo --annotation terok.read=lib --annotation terok.task=" + task +
		" " + flags + " " + image + " " + as + ` sh -ec '
			git clone --quiet --recurse-submodules ` + f.demo + ` work-$(id -u); cd work-$(id -u); cat lib/lib
			echo by-` + task + ` >by-` + task + `; git add .; git commit --quiet --message "by ` + task + `"
			` + script + `'`
}

// reviewedBranch is what review --json prints of a branch.
type reviewedBranch struct {
	Ref, Commit, Task, Container string
	Ahead, Behind                int
	Pushed                       *string
}

func (f forgeOf) review(t *testing.T) map[string]reviewedBranch {
	t.Helper()
	var all []reviewedBranch
	if err := json.Unmarshal([]byte(f.must(t, "terok-gate review --json demo")), &all); err != nil {
		t.Fatal(err)
	}
	branches := map[string]reviewedBranch{}
	for _, b := range all {
		branches[strings.TrimPrefix(b.Ref, "refs/heads/")] = b
	}
	return branches
}

// says checks that a script of the user's prints all of want.
func (f forgeOf) says(t *testing.T, script string, want ...string) {
	t.Helper()
	out := f.must(t, script)
	for _, want := range want {
		if !strings.Contains(out, want) {
			t.Errorf("%s: %s does not say %q, but %q", f.user, script, want, out)
		}
	}
}

func TestTheDayOfAUserWhoRunsAgents(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	root, alice := newGateAccounts(t, m)
	newForge(t, m)
	m.must(t, "root", "useradd --system --user-group --home-dir /var/lib/terok-gate --shell /usr/sbin/nologin terok-gate")
	for _, a := range []account{root, alice} {
		t.Run(a.user, func(t *testing.T) {
			defer m.logIn(t, a.user)()
			f := a.fill(t, a.user)
			a.must(t, "terok-gate install --allow-project 'demo*' --allow-read 'lib*'")
			a.must(t, "terok-gate add demo "+f.demo+"; terok-gate add lib "+f.lib)

			// Two agents work at once. One changes to another user, and neither may write
			// to the library.
			const push, refused = `git push --quiet origin HEAD:task-%s; ! git -C lib push --quiet origin HEAD:task-%[1]s`, "remote: "
			a.must(t, f.agent(t, "1", "--cidfile ~/1.id", "", fmt.Sprintf(push, "1"))+` >1.said 2>&1 & first=$!
				`+f.agent(t, "2", "--cidfile ~/2.id --annotation terok.env-mode=0444",
				"setpriv --reuid 4321 --regid 4321 --clear-groups", fmt.Sprintf(push, "2"))+" >2.said 2>&1 || { cat 2.said; false; }; wait $first || { cat 1.said; false; }")
			f.says(t, "cat 1.said", "lib\n", refused)
			f.says(t, "cat 2.said", "lib\n", refused)

			// Upstream gets a commit, and a third agent begins with it. The agent's push fails,
			// since a branch task-2 exists.
			f.at(t, "commit demo news")
			f.says(t, "terok-gate sync", "demo: main: ")
			f.says(t, f.agent(t, "3", "--rm", "", "cat news; ! git push --quiet origin HEAD:task-2/own 2>&1"), "news\n", "'refs/heads/task-2' exists")

			branches := f.review(t)
			if len(branches) != 2 {
				t.Errorf("review shows %v", branches)
			}
			for _, task := range []string{"1", "2"} {
				b := branches["task-"+task]
				id := strings.TrimSpace(a.must(t, "cat ~/"+task+".id"))
				if b.Task != task || b.Container != id || b.Ahead != 1 || b.Behind != 1 || b.Pushed == nil {
					t.Errorf("review shows of task %s, whose container is %s: %+v", task, id, b)
				}
			}
			f.says(t, "terok-gate review", "task-1", "task-2", "by 1", "by 2")
			f.says(t, "terok-gate review demo task-1", "Pushed: by task 1, container ", "+by-1")

			// One branch is released, by a human at a terminal.
			f.says(t, `echo y | script --quiet --return --command "terok-gate release demo task-1" /dev/null`, "+by-1", "Push 1 commit to upstream's task-1? ", "released "+branches["task-1"].Commit)
			if got := f.at(t, "git -C demo.git for-each-ref --format='%(refname) %(objectname)' refs/heads/task-*"); got != "refs/heads/task-1 "+branches["task-1"].Commit {
				t.Errorf("the forge's branches of tasks are %s", got)
			}

			// An agent deletes the other branch, and restore brings it back.
			a.must(t, f.agent(t, "4", "--rm", "", "git push --quiet origin :task-2"))
			if branches := f.review(t); len(branches) != 0 {
				t.Errorf("review still shows %v", branches)
			}
			f.says(t, "terok-gate restore demo", "task-2", branches["task-2"].Commit[:12])
			f.says(t, "terok-gate restore demo task-2", "task-2: created "+branches["task-2"].Commit[:12])
			if b := f.review(t)["task-2"]; b.Commit != branches["task-2"].Commit {
				t.Errorf("task-2 comes back as %+v, but was %+v", b, branches["task-2"])
			}

			// An agent forces main, and sync --reset undoes that.
			upstream := f.at(t, "git -C demo.git rev-parse main")
			a.must(t, f.agent(t, "5", "--rm", "", "git reset --quiet --hard HEAD~2; git commit --quiet --allow-empty --message forced; git push --quiet --force origin HEAD:main"))
			f.says(t, "terok-gate sync --reset main demo", "demo: main: ", " to "+upstream[:12]+"; the old tip is kept")
			f.says(t, f.agent(t, "6", "--rm", "", "git log -1 --format=%H origin/main"), upstream)

			// The gate has refused the two pushes to the library, and has logged no other warning.
			said := m.must(t, "root", "journalctl --quiet --output cat --priority warning "+strings.ReplaceAll(a.journal, watchUnit, gateUnit))
			if n := strings.Count(said, "refused "); n != 2 || strings.Count(said, "\n") != n || strings.Count(said, `project="lib"`) != n {
				t.Errorf("the gate says %s", said)
			}
		})
	}
}

// The commands of the README's "Getting started" work word for word. The image and the
// forge are the test's own, but have the names that the README uses.
func TestTheReadmesFirstStepsWork(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../README.md")
	testenv.Must(t, err)
	_, section, _ := strings.Cut(string(readme), "\n## Getting started\n")
	section, _, _ = strings.Cut(section, "\n## ")

	var commands strings.Builder
	for i, block := range strings.Split(section, "```") {
		if script, is := strings.CutPrefix(block, "sh\n"); is && i%2 == 1 {
			commands.WriteString(script)
		}
	}
	_, name, _ := strings.Cut(commands.String(), "image=")
	name, _, _ = strings.Cut(name, "\n")
	if !strings.Contains(commands.String(), "terok-gate release ") || name == "" {
		t.Fatalf("the README's commands are %s", &commands)
	}

	m := newMachine(t)
	root, alice := newGateAccounts(t, m)
	newForge(t, m)
	m.must(t, "root", "useradd --system --user-group --home-dir /var/lib/terok-gate --shell /usr/sbin/nologin terok-gate")
	testenv.Must(t, os.WriteFile(m.path("/srv/readme.sh"), []byte(commands.String()), 0o644))
	// The image has git, with the rest of the machine's programs. Only /usr is mounted, not
	// /bin or /lib: these are links into /usr in doctor's own container, and podman mounts in
	// any order.
	m.must(t, "root", `printf '[containers]\nvolumes = ["/usr:/usr:ro"]\n' >/etc/containers/containers.conf.d/20-git.conf`)
	for _, a := range []account{root, alice} {
		t.Run(a.user, func(t *testing.T) {
			defer m.logIn(t, a.user)()
			f := a.fill(t, "you")
			a.must(t, imageWithoutGit+name)

			said := a.must(t, `echo y | script --quiet --return --command "sh -exu /srv/readme.sh" /dev/null`)
			if got := f.at(t, "git -C demo.git log -1 --format='%an: %s' task-1; git -C demo.git branch --list task-2"); got != "1: Note the time" {
				t.Errorf("the forge has %q: %s", got, said)
			}
			f.says(t, "terok-gate review", "task-2")
		})
	}
}
