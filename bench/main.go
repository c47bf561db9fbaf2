// bench compares the hook and the gate with the best that is possible, and with other
// programs. For the hook, the best is bench/floor, a program that makes only the system calls
// that a durable change needs; the others are a Python program, a shell script, and no hook.
// For the gate, the best is git alone; the others are nginx and a Python gate. See README.md.
//
//	go run ./bench                                     # everything, into results.md, results.json and the charts
//	go run ./bench -only stages -tokens 10,1000        # a part, printed only
//	go run ./bench -only gate -write                   # a part anew; the others keep their results
//
// Run it as root, on a machine that does nothing else. Programs that are compared take
// turns. So other load on the machine does not slow down only one of them.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// results are all measurements. Times are in milliseconds, by program.
type results struct {
	Machine   string
	Load      [2]string // average, before and after
	Stages    []stages
	Living    stages
	Crowd     crowd
	Watch     watched
	Memory    []memory
	Podman    map[string]series // by runtime
	Functions string            // the table that benchstat prints
	Gate      gateResults
	Sync      synced
}

// series are the measured values, by the name of what was measured. They are durations in
// milliseconds, except in fields called PerSecond.
type series map[string][]float64

func (s series) median(name string) float64 { return median(s[name]) }

func median(all []float64) float64 {
	if len(all) == 0 {
		return 0
	}
	return slices.Sorted(slices.Values(all))[len(all)/2]
}

func largest(all []float64) (most float64) {
	for _, one := range all {
		most = max(most, one)
	}
	return most
}

func (s series) add(name string, d time.Duration) {
	s[name] = append(s[name], float64(d.Round(time.Microsecond))/1e6)
}

var (
	parts     = []string{"stages", "living", "crowd", "watch", "memory", "podman", "functions", "gate", "sync"}
	gateParts = []string{"requests", "commands", "transfers", "clones", "attach", "cuts", "revoking", "several", "services", "fleet"} // of "gate"
)

func run() error {
	tokens := flag.String("tokens", "10,1000,10000,100000", "`sizes` of the token file")
	rounds := flag.Int("rounds", 40, "how often each program runs; less often with a large file")
	only := flag.String("only", "", "the `parts` to measure, of "+strings.Join(parts, ",")+", or of the gate's "+strings.Join(gateParts, ",")+"; without -write, the results are only printed")
	write := flag.Bool("write", false, "with -only, also write the results, beside the earlier ones of the other parts")
	binaries := map[string]*string{}
	for _, name := range []string{"hook", "gate"} {
		binaries[name] = flag.String(name, "", "the "+name+" to measure; default: one built from this module")
	}
	flag.Parse()

	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	programs, err := buildAll(filepath.Join(dir, "bin"), binaries)
	if err != nil {
		return err
	}
	w := world{dir: dir, programs: programs}

	var r results
	if *only == "" {
		*write = true
		r.Machine, r.Load[0] = machine(), load()
	} else if before, err := os.ReadFile("bench/results.json"); err != nil {
		return err
	} else if err := json.Unmarshal(before, &r); err != nil {
		return fmt.Errorf("bench/results.json: %w", err)
	}

	wanted := func(parts ...string) bool {
		return *only == "" || slices.ContainsFunc(strings.Split(*only, ","), func(one string) bool { return slices.Contains(parts, one) })
	}
	for _, part := range parts {
		if !wanted(part) && !(part == "gate" && wanted(gateParts...)) {
			continue
		}
		fmt.Println("==", part)
		if err := w.measure(part, &r, strings.Split(*tokens, ","), *rounds, wanted); err != nil {
			return fmt.Errorf("%s: %w", part, err)
		}
	}

	if !*write {
		return nil
	}
	if *only == "" {
		r.Load[1] = load()
	}
	return r.write("bench")
}

// buildAll builds the measured programs into a directory, and returns their paths. For a given
// binary, it returns that binary's path instead.
func buildAll(dir string, given map[string]*string) (map[string]string, error) {
	programs := map[string]string{
		"floor": "terok-gate-hook/bench/floor", "reads": "terok-gate-hook/bench/reads", "hook": "terok-gate-hook",
		"gate": "terok-gate-hook/cmd/terok-gate",
	}
	for name, source := range programs {
		programs[name] = filepath.Join(dir, name)
		if err := build(programs[name], source); err != nil {
			return nil, err
		}
	}

	for name, binary := range given {
		if *binary != "" {
			programs[name] = *binary
		}
	}
	return programs, nil
}

// measure measures a part and prints the results. sizes are the numbers of tokens in the file.
func (w *world) measure(part string, r *results, sizes []string, rounds int, wanted func(parts ...string) bool) (err error) {
	switch part {
	case "stages":
		r.Stages = nil
		for _, size := range sizes {
			n, err := strconv.Atoi(size)
			if err != nil {
				return err
			}
			s, err := w.stages(n, 0, rounds)
			if err != nil {
				return err
			}
			fmt.Println(s)
			r.Stages = append(r.Stages, s)
		}

	case "living":
		r.Living, err = w.stages(1000, 1000, rounds)
		fmt.Println(r.Living)
	case "crowd":
		r.Crowd, err = w.crowd(1000, 200, 5)
		fmt.Println(r.Crowd)
	case "watch":
		r.Watch, err = w.watch(10_000, 20*time.Second)
		fmt.Println(r.Watch)

	case "memory":
		r.Memory, err = w.memory(100_000)
		fmt.Println(r.Memory)
	case "podman":
		r.Podman, err = w.podman(rounds / 2)
		fmt.Println(podmans(r.Podman))
	case "functions":
		r.Functions, err = functions()
		fmt.Print(r.Functions)
	case "gate":
		err = w.gate(&r.Gate, rounds, func(part string) bool { return wanted("gate", part) })
	case "sync":
		r.Sync, err = w.sync(10_000, rounds/4)
		fmt.Println(r.Sync)
	}
	return err
}

// write writes the results, their tables and their charts into a directory.
func (r results) write(dir string) error {
	raw, err := json.Marshal(r)
	if err != nil {
		return err
	}

	for name, content := range map[string][]byte{"results.json": append(raw, '\n'), "results.md": r.table(), "chart.svg": r.chart(), "gate.svg": r.Gate.chart()} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// build builds a program of this module in the way in which releases are built and installed.
// program is the import path.
func build(binary, program string, flags ...string) error {
	linked := binary + ".linked"
	defer os.Remove(linked)
	args := slices.Concat([]string{"build", "-trimpath", "-tags", "urfave_cli_no_docs", "-ldflags", "-s -w", "-o", linked}, flags, []string{program})
	build := exec.Command("go", args...)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %w\n%s", build.Args, err, out)
	}
	// The linker writes a program page by page, through a mapping. Installation copies it in larger
	// pieces, which the page cache keeps as they are. The copy starts a tenth faster, so it is what
	// the bench measures.
	content, err := os.ReadFile(linked)
	if err != nil {
		return err
	}
	return os.WriteFile(binary, content, 0o755)
}

// functions measures the store's functions, six times each.
func functions() (string, error) {
	test := exec.Command("go", "test", "-run", "^$", "-bench", "Each|Issue", "-benchmem", "-benchtime", "200ms", "-count", "6", "./store")
	out, err := test.Output()
	if err != nil {
		return "", fmt.Errorf("%v: %w", test.Args, err)
	}
	benchstat := exec.Command("go", "run", "golang.org/x/perf/cmd/benchstat@"+benchstatVersion, "/dev/stdin")
	benchstat.Stdin = strings.NewReader(string(out))
	table, err := benchstat.Output()
	if err != nil {
		return "", fmt.Errorf("%v: %w", benchstat.Args, err)
	}
	return string(table), nil
}

// machine describes the machine that the measurements are made on.
func machine() string {
	kernel, _ := exec.Command("uname", "-sr").Output()
	version, _ := exec.Command("go", "env", "GOVERSION").Output()
	cores, _ := exec.Command("nproc").Output()
	return fmt.Sprintf("%s, %s cores, %s", strings.TrimSpace(string(kernel)), strings.TrimSpace(string(cores)), strings.TrimSpace(string(version)))
}

// load returns the load average of the last minute.
func load() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(text), " ")
	return first
}
