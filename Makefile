# Two commands for newcomers: make run and make test. Both install what they need if they
# may (scripts/needs).

# A build has the same bytes in every directory, and records its commit if git knows it.
BUILD = CGO_ENABLED=0 go build -trimpath -tags urfave_cli_no_docs -ldflags '-s -w' \
	-buildvcs=$(shell git rev-parse HEAD >/dev/null 2>&1 && echo true || echo false)
MODULES = . nri
SOURCES = go.mod go.sum $(wildcard *.go */*.go */*/*.go hooks.d/*.json systemd/*/*.service)
TESTFLAGS =

.PHONY: run test test-engines test-kubernetes image bench fuzz lint packages release clean

terok-gate-hook: $(SOURCES)
	$(BUILD) -o $@ .

terok-gate: $(SOURCES)
	$(BUILD) -o $@ ./cmd/terok-gate

terok-nri: $(SOURCES) $(wildcard nri/*)
	cd nri && $(BUILD) -o ../$@ .

dist/terok-gate-hook_linux_%: $(SOURCES)
	GOOS=linux GOARCH=$* $(BUILD) -o $@ .

dist/terok-gate_linux_%: $(SOURCES)
	GOOS=linux GOARCH=$* $(BUILD) -o $@ ./cmd/terok-gate

run: # a real container without a network clones and pushes with its token, in a throw-away directory
	scripts/needs go podman git
	$(MAKE) --no-print-directory terok-gate-hook terok-gate
	scripts/try

test: # all tests; the last lines say what was left out, and whether the rest passed
	scripts/needs go podman runc busybox git sshd nginx python3 strace tools systemd man zsh fish
	scripts/test $(TESTFLAGS)

test-engines: # the tests with containers and those of the gate, with engines, git and systemd of newer Debians, as root
	scripts/needs go mmdebstrap
	scripts/engines test trixie $(TESTFLAGS)
	scripts/engines test newest $(TESTFLAGS)
	scripts/engines test docker26 $(TESTFLAGS)
	scripts/engines test docker28 $(TESTFLAGS)
	scripts/engines test kubelet $(TESTFLAGS)

test-kubernetes: # deploy/kubernetes in a real cluster of one node, then of two, as root; the first time, building its programs takes 10 minutes
	scripts/needs go mmdebstrap
	scripts/engines test kubernetes $(TESTFLAGS)

IMAGE =
image: terok-gate terok-gate-hook terok-nri # for Kubernetes: make image IMAGE=registry.example/terok-gate:1
	podman build --tag $(IMAGE) --file deploy/kubernetes/Containerfile .

bench: # compares the hook and the gate with the least possible cost and with other programs, as root; writes to bench/; takes twenty minutes
	scripts/needs go podman runc busybox python3 jq git strace nginx fcgiwrap openssl
	go run ./bench

FUZZTIME = 20000x
fuzz: export TMPDIR = /dev/shm
fuzz: # all fuzz targets, one after another; for hours: make fuzz FUZZTIME=2h
	for target in State Configuration Precreate Annotations MountPoint; do \
		go test -run '^$$' -fuzz "^Fuzz$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 100x ./hook || exit; done
	go test -run '^$$' -fuzz '^FuzzTokenFile$$' -fuzztime $(FUZZTIME) -fuzzminimizetime 100x ./store
	go test -run '^$$' -fuzz '^FuzzCanonicalForm$$' -fuzztime $(FUZZTIME) -fuzzminimizetime 100x ./store
	go test -run '^$$' -fuzz '^FuzzRequest$$' -fuzztime $(FUZZTIME) -fuzzminimizetime 100x ./gate
	go test -run '^$$' -fuzz '^FuzzVoucher$$' -fuzztime $(FUZZTIME) -fuzzminimizetime 100x ./internal/voucher

lint:
	@unformatted=$$(gofmt -l .); test -z "$$unformatted" || { echo "gofmt would change: $$unformatted"; exit 1; }
	for module in $(MODULES); do \
		go -C $$module vet ./... && \
		(cd $$module && go run honnef.co/go/tools/cmd/staticcheck@v0.8.2 ./...) || exit; \
	done

packages: # a .deb and an .rpm for this machine, in dist/
	scripts/packages $(shell go env GOARCH)

release: # all that is published, in dist/: make release VERSION=1.0.0 (docs/RELEASING.md)
	scripts/release $(VERSION)

clean:
	rm -rf terok-gate-hook terok-gate terok-nri try dist
