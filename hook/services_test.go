package hook

import (
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"terok-gate-hook/internal/control"
)

func TestAServiceHasANameAPortAndAnAddress(t *testing.T) {
	for given, want := range map[string]Service{
		"llm=127.0.0.1:4000":                        {"llm", 4000, "tcp", "127.0.0.1:4000"},
		"llm=80:127.0.0.1:4000":                     {"llm", 80, "tcp", "127.0.0.1:4000"},
		"llm=10.0.0.7:443":                          {"llm", 443, "tcp", "10.0.0.7:443"},
		"llm=[::1]:4000":                            {"llm", 4000, "tcp", "[::1]:4000"},
		"llm=80:[fd00::1]:4000":                     {"llm", 80, "tcp", "[fd00::1]:4000"},
		"db-2=5432:unix:/run/db.s":                  {"db-2", 5432, "unix", "/run/db.s"},
		"x=1:unix:/srv/a=b:c/d":                     {"x", 1, "unix", "/srv/a=b:c/d"},
		"llm":                                       {},
		"llm=":                                      {},
		"=127.0.0.1:4000":                           {},
		"LLM=127.0.0.1:4000":                        {},
		"l_m=127.0.0.1:4000":                        {},
		"-lm=127.0.0.1:4000":                        {},
		"1lm=127.0.0.1:4000":                        {},
		"l m=127.0.0.1:4000":                        {},
		"llm=localhost:4000":                        {},
		"llm=80:localhost:4000":                     {},
		"llm=127.0.0.1":                             {},
		"llm=127.0.0.1:0":                           {},
		"llm=0.0.0.0:4000":                          {},
		"llm=[fe80::1%eth0]:4000":                   {},
		"llm=0:127.0.0.1:4000":                      {},
		"llm=65536:127.0.0.1:4000":                  {},
		"llm=unix:/run/db.s":                        {},
		"llm=80:unix:run/db.s":                      {},
		"llm=80:unix:":                              {},
		"llm=http://127.0.0.1:4000":                 {},
		strings.Repeat("l", 33) + "=127.0.0.1:4000": {},
		"llm=80:unix:/" + strings.Repeat("x", 107):  {},
	} {
		got, err := ParseService(given)
		if (err == nil) != (want != Service{}) || err == nil && got != want {
			t.Errorf("%q is %+v, %v", given, got, err)
		}
	}
}

// served are settings with services of the host.
var served = Settings{
	GateSocket:    "/run/gate/control",
	Services:      []string{"llm=127.0.0.1:4000", "vector-db=5432:unix:/run/db.s"},
	AllowServices: []string{"demo*=llm,vector-db", "web=llm"},
}

func TestSettingsOfServicesAreChecked(t *testing.T) {
	must(t, served.Check())
	for _, row := range []struct {
		services, allow []string
		err             string
	}{
		{[]string{"llm"}, nil, `service "llm": is not of the form`},
		{[]string{"llm=127.0.0.1:4000", "llm=127.0.0.1:4001"}, nil, `service "llm=127.0.0.1:4001": has the name of another`},
		{[]string{"llm=127.0.0.1:4000", "x=10.0.0.1:4000"}, nil, `service "x=10.0.0.1:4000": has the port of service llm`},
		{[]string{"llm=127.0.0.1:9418"}, nil, `service "llm=127.0.0.1:9418": has the port of the gate`},
		{nil, []string{"demo=llm"}, `allow-service "demo=llm": names the service "llm", which no --service describes`},
		{[]string{"llm=127.0.0.1:4000"}, []string{"demo=llm,"}, `allow-service "demo=llm,": names the service ""`},
		{[]string{"llm=127.0.0.1:4000"}, []string{"[=llm"}, `allow-service "[=llm": `},
		{[]string{"llm=127.0.0.1:4000"}, []string{"llm"}, `allow-service "llm": is not of the form`},
		{[]string{"llm=127.0.0.1:4000"}, []string{"=llm"}, `allow-service "=llm": is not of the form`},
	} {
		s := Settings{GateSocket: "/run/gate/control", Services: row.services, AllowServices: row.allow}
		var setting *SettingError
		if err := s.Check(); !errors.As(err, &setting) || !strings.HasPrefix(err.Error(), row.err) {
			t.Errorf("%q, %q: the error is not %q but %v", row.services, row.allow, row.err, err)
		}
	}

	var many []string
	for i := range mostServices + 1 {
		many = append(many, "s"+string(rune('a'+i))+"="+string(rune('1'+i%9))+string(rune('0'+i/9))+":127.0.0.1:1")
	}
	if err := (Settings{GateSocket: "/run/gate/control", Services: many}).Check(); err == nil || !strings.Contains(err.Error(), "one too many: at most 16") {
		t.Errorf("17 services: %v", err)
	}
	if err := (Settings{Services: served.Services}).Check(); err == nil || !strings.Contains(err.Error(), "needs a gate socket") {
		t.Errorf("without a gate socket: %v", err)
	}
	if more := served.Deadline() - (Settings{GateSocket: served.GateSocket}).Deadline(); more != served.gateTimeout() {
		t.Errorf("with services, the deadline of a stage is %v longer", more)
	}
}

func TestAContainerGetsTheServicesThatItsProjectMayUse(t *testing.T) {
	for _, row := range []struct {
		project, asked string
		services       string
		err            string
	}{
		{"demo", "llm", "llm", ""},
		{"demo-2", "llm,vector-db", "llm vector-db", ""},
		{"demo", "vector-db llm", "vector-db llm", ""},
		{"demo", "", "", ""},
		{"web", "llm", "llm", ""},
		{"web", "llm,vector-db", "", `annotation terok.services: the project may not use service "vector-db": see --allow-service`},
		{"other", "llm", "", `annotation terok.services: the project may not use service "llm": see --allow-service`},
		{"demo", "cache", "", `annotation terok.services: service "cache": no --service of this host describes it`},
		{"demo", "LLM", "", `annotation terok.services: service "LLM": no --service of this host describes it`},
		{"demo", "llm,llm", "", `annotation terok.services: service "llm" is named twice`},
	} {
		want, _, err := served.request(map[string]string{ProjectAnnotation: row.project, TaskAnnotation: "1", ServicesAnnotation: row.asked})
		var names []string
		for _, service := range want.services {
			names = append(names, service.Name)
		}
		if got := strings.Join(names, " "); row.err == "" && (err != nil || got != row.services) {
			t.Errorf("%s gets %q of %q, %v", row.project, got, row.asked, err)
		}
		if row.err != "" && (!errors.Is(err, ErrRefused) || !strings.Contains(Detail(err)+WayOut(err), row.err)) {
			t.Errorf("%s asks for %q: the error in the log is not %q but %s", row.project, row.asked, row.err, Detail(err)+WayOut(err))
		}
		if err != nil && (strings.Contains(err.Error(), "llm") || strings.Contains(err.Error(), "cache")) {
			t.Errorf("the text for podman repeats an annotation: %v", err)
		}
	}
}

func TestTheContainerLearnsWhereItsServicesAre(t *testing.T) {
	want, _, err := served.request(map[string]string{ProjectAnnotation: "demo", TaskAnnotation: "1", ServicesAnnotation: "llm,vector-db"})
	must(t, err)
	const variables = "TEROK_SERVICE_LLM=http://127.0.0.1:4000\nTEROK_SERVICE_VECTOR_DB=http://127.0.0.1:5432\n"
	files, err := served.files(want, someToken, someContainer, nil)
	must(t, err)
	if !strings.Contains(string(files[0].content), variables) {
		t.Errorf("gate.env is\n%s", files[0].content)
	}

	config := precreate(t, served, `{"annotations":{"terok.project":"demo","terok.task":"1","terok.services":"llm vector-db"},"process":{"env":["TEROK_SERVICE_LLM=mine"]}}`)
	var got struct{ Process struct{ Env []string } }
	must(t, json.Unmarshal(config, &got))
	for _, variable := range []string{"TEROK_SERVICE_LLM=mine", "TEROK_SERVICE_VECTOR_DB=http://127.0.0.1:5432"} {
		if !slices.Contains(got.Process.Env, variable) {
			t.Errorf("%s is not in the environment: %q", variable, got.Process.Env)
		}
	}
	if slices.Contains(got.Process.Env, "TEROK_SERVICE_LLM=http://127.0.0.1:4000") {
		t.Errorf("the container's own variable did not stay: %q", got.Process.Env)
	}
}

// withServices starts a container with a gate, and sets services in the settings of the container's
// hook. ask changes the container's state so that the container asks for these services.
func withServices(t *testing.T) (c *container, ask func(state map[string]any)) {
	t.Helper()
	c = prepare(t)
	c.start(t, unix.CLONE_NEWNET)
	gateOf(t, c, func(control.Request, int) string { return yes })
	c.hook.Services, c.hook.AllowServices = served.Services, served.AllowServices
	must(t, os.MkdirAll(filepath.Dir(control.ForwardSocket(c.hook.GateSocket)), 0o755))
	return c, func(state map[string]any) {
		state["annotations"].(map[string]any)[ServicesAnnotation] = "llm,vector-db"
	}
}

func TestEachServiceGetsAListenerInTheContainersNetwork(t *testing.T) {
	t.Parallel()
	c, ask := withServices(t)
	asked := make(chan control.Request, 4)
	answerAt(t, control.ForwardSocket(c.hook.GateSocket), func(r control.Request, socket int) string {
		if at := listens(t, socket); at != r.Listen && at != "" {
			t.Errorf("the socket for %s listens at %q", r.Service, at)
		}
		asked <- r
		return yes
	})
	out, err := c.prestart(t, "crun", ask)
	must(t, err)

	at := map[string]string{"llm": "127.0.0.1:4000", "vector-db": "127.0.0.1:5432"}
	entries, err := c.hook.Tokens.Entries()
	must(t, err)
	if !maps.Equal(entries[0].Gate.Services, at) {
		t.Errorf("the entry has the services %v", entries[0].Gate.Services)
	}
	for _, name := range []string{"llm", "vector-db"} {
		want := control.Request{Version: 1, Container: out.Container, Process: entries[0].Process, Token: out.Token.Key(), Service: name, Listen: at[name]}
		if diff := cmp.Diff(want, <-asked); diff != "" {
			t.Errorf("for %s (-want +got):\n%s", name, diff)
		}
	}

	// The same is done again for a forwarder that lost its listeners.
	living, err := c.hook.HandedOver()
	must(t, err)
	if len(living) != 1 || !maps.Equal(living[0].Gate.Services, at) {
		t.Fatalf("the record has %+v", living)
	}
	must(t, c.hook.Attach(living[0]))
	if len(asked) != 2 {
		t.Errorf("attach asks for %d services", len(asked))
	}
}

func TestWithoutTheForwardersYesThereIsNoToken(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		answer func(control.Request, int) string
		err    string
		reason error
		way    string
	}{
		"no forwarder": {nil, "terok-gate forward does not answer: no such file or directory", ErrNoForward, ": start it, as the service terok-gate-forward or with terok-gate forward"},
		"a forwarder without the service": {func(control.Request, int) string { return `{"version":1,"refused":"service"}` },
			"refused: terok-gate forward does not have the service", ErrUnknownService, ": start it again with the --service flags that the hooks have, as terok-gate install does"},
		"another program at its port": {func(control.Request, int) string { return `{"version":1,"refused":"taken"}` },
			"refused: another program in the container's network uses the service's address", ErrServiceTaken, ": see who listens there, or choose another port with --service NAME=PORT:ADDRESS"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, ask := withServices(t)
			c.hook.GateTimeout = time.Second
			socket := control.ForwardSocket(c.hook.GateSocket)
			if row.answer != nil {
				answerAt(t, socket, row.answer)
			}

			_, err := c.prestart(t, "crun", ask)
			want := "ask terok-gate forward at " + socket + " to serve llm in the container's network: " + row.err
			if err == nil || err.Error() != want || !errors.Is(err, row.reason) || WayOut(err) != row.way {
				t.Errorf("the error is not %q but %v%s", want, err, WayOut(err))
			}
			if entries, err := c.hook.Tokens.Entries(); err != nil || len(entries) > 0 {
				t.Errorf("the token file holds %d tokens, %v", len(entries), err)
			}
			if living, err := c.hook.HandedOver(); err != nil || len(living) > 0 {
				t.Errorf("there are %d records, %v", len(living), err)
			}
		})
	}
}
